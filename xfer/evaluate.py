"""Seeded evaluation episodes: the only place that runs them.

A ``Runner`` acts here, whatever is behind it: a policy in training, or any variant of a bundle.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from xfer.errors import ScoresError
from xfer.runner import Arrays, Runner
from xfer.tasks import Task
from xfer.trajectories import Trajectories
from xfer.wrappers import Rendered

EVALUATION_SEED = 1_000_000
"""Seeds from here on judge a policy in training; training itself stays below."""

PAIR_SEED = 2_000_000
"""Seeds from here on compare a variant with eager."""

HELD_OUT_SEED = 3_000_000
"""Seeds from here on give the observations that the actions gate looks at."""

CALIBRATION_SEED = 4_000_000
"""Seeds from here on give the observations that int8 is calibrated on."""


def episode_returns(task: Task, runner: Runner, seeds: Iterable[int]) -> Iterator[tuple[int, float]]:
    """Run one episode for each seed, as many at once as the runner's batch, and yield (seed, return) as they end.

    The return is the sum of rewards. Rows without an episode left are shown their last observation again. An episode
    that goes round in circles (``Task.circles``) ends there, with the return that it has and will have.
    """
    waiting = iter(seeds)
    circles = task.circles and not runner.spec.states
    rows = [_Row(task.make(), circles) for _ in range(runner.batch)]
    begun = np.array([row.begin(next(waiting, None)) for row in rows])
    try:
        runner.reset()
        while any(row.seed is not None for row in rows):
            shown = [row.observations or rows[0].observations for row in rows]
            batch = {name: np.stack([observations[name] for observations in shown]) for name in shown[0]}
            chosen = runner.act(batch).action
            begun[:] = False
            for i, row in enumerate(rows):
                if row.seed is not None and row.step(chosen[i]):
                    yield row.seed, row.total
                    begun[i] = row.begin(next(waiting, None))
            runner.reset(begun)
    finally:
        for row in rows:
            row.env.close()


def record(task: Task, actor: Runner, seed: int, length: int, stretch: int) -> Trajectories:
    """Return ``length`` recorded observations of ``actor``, from episodes that are cut after ``stretch`` steps."""
    env = task.make()
    seen: list[dict[str, np.ndarray]] = []
    resets: list[bool] = []
    while len(seen) < length:
        observations, _ = env.reset(seed=seed)
        actor.reset()
        seed += 1
        for step in range(min(stretch, length - len(seen))):
            seen.append(observations)
            resets.append(step == 0)
            observations, _, terminated, truncated, _ = env.step(native(env, actor.act(observations).action))
            if terminated or truncated:
                break
    env.close()
    return Trajectories({name: np.stack([o[name] for o in seen]) for name in seen[0]}, np.array(resets))


class _Row:
    """One environment of a batch, and the episode that is running in it."""

    def __init__(self, env: gymnasium.Env[Any, Any], circles: bool) -> None:
        self.env, self.circles = env, circles
        self.seed: int | None = None
        self.total = 0.0
        self.observations: dict[str, np.ndarray] = {}
        self.shown_before: set[bytes] = set()  # digests of this episode's observations

    def begin(self, seed: int | None) -> bool:
        """Start the episode of a seed, if there is one."""
        self.seed, self.total = seed, 0.0
        if seed is not None:
            self.observations, _ = self.env.reset(seed=seed)
            self.shown_before = {self.shown()} if self.circles else set()
        return seed is not None

    def step(self, action: np.ndarray) -> bool:
        """Act, and say whether the episode is over."""
        self.observations, reward, terminated, truncated, _ = self.env.step(native(self.env, action))
        self.total += float(reward)
        return bool(terminated or truncated) or (self.circles and self.circled())

    def circled(self) -> bool:
        """Whether the episode has shown before what it shows now."""
        shown = self.shown()
        known = shown in self.shown_before
        self.shown_before.add(shown)
        return known

    def shown(self) -> bytes:
        """Return a digest of the observations."""
        digest = hashlib.blake2b(digest_size=16)
        for array in self.observations.values():
            digest.update(array.tobytes())
        return digest.digest()


@dataclass(frozen=True, eq=False)
class Fork:
    """The moment at which a variant first chose another action than the reference.

    Attributes:
        step: Step of the episode, counted from 0.
        observations: What both were shown, without a batch dimension; a copy.
        scores: The reference's scores there, float32 [A].
        reference_action: What it chose, in the environment's units.
        variant_action: What the variant chose.
    """

    step: int
    observations: Arrays
    scores: np.ndarray
    reference_action: np.ndarray
    variant_action: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Two episodes from the same seed.

    Attributes:
        seed: The seed.
        reference: Return of the reference (eager).
        variant: Return of the variant.
        fork: Where their actions first differed, or None if they never did.
        error: Why the variant did not finish its episode (its return is then NaN), or empty.
    """

    seed: int
    reference: float
    variant: float
    fork: Fork | None
    error: str = ""


def paired_episode(task: Task, reference: Runner, variants: Mapping[str, Runner], seed: int) -> dict[str, Pair]:
    """Run the reference and all variants from one seed, together for as long as they agree.

    As long as a variant chooses the reference's very action, both are in the same episode, and it is stepped once.
    Where their actions first differ the variant forks: a second environment is brought to that moment by
    replaying the actions from the same seed, and goes on alone. A variant that never forks
    has the reference's return by construction.

    Args:
        task: Where to act.
        reference: Runner of batch 1.
        variants: Runners of batch 1, by name.
        seed: Seed of the episode.
    """
    for runner in (reference, *variants.values()):
        runner.reset()
    together = dict(variants)
    forks: dict[str, Fork] = {}
    errors: dict[str, str] = {}
    actions: list[np.ndarray] = []
    total, over = 0.0, False
    env = task.make()
    try:
        observations, _ = env.reset(seed=seed)
        while not over:
            action, scores = reference.act(observations)
            for name in list(together):
                try:
                    other = together[name].act(observations).action
                except ScoresError as error:
                    errors[name] = str(error)
                    del together[name]
                    continue
                if not np.array_equal(other, action):
                    # Copies: the environment may draw the next frame into the same array.
                    shown = {key: array.copy() for key, array in observations.items()}
                    forks[name] = Fork(len(actions), shown, scores, action, other)
                    del together[name]
            actions.append(action)
            observations, reward, terminated, truncated, _ = env.step(native(env, action))
            total += float(reward)
            over = terminated or truncated
    finally:
        env.close()
    pairs = {name: Pair(seed, total, total, None) for name in together}
    for name, fork in forks.items():
        try:
            variant = _finish_fork(task, variants[name], seed, actions[: fork.step], fork.variant_action)
            pairs[name] = Pair(seed, total, variant, fork)
        except ScoresError as error:
            pairs[name] = Pair(seed, total, math.nan, fork, str(error))
    pairs |= {name: Pair(seed, total, math.nan, None, error) for name, error in errors.items()}
    return {name: pairs[name] for name in variants}


def _finish_fork(task: Task, runner: Runner, seed: int, shared: list[np.ndarray], action: np.ndarray) -> float:
    """Replay the shared actions, take the variant's own, and let it finish; return its whole return.

    The replay draws nothing where the environment's outermost wrapper is known to do nothing else.
    """
    env = task.make()
    try:
        env.reset(seed=seed)
        undrawn: Any = env.env if isinstance(env, Rendered) else env
        total = sum(float(undrawn.step(native(env, past))[1]) for past in shared)
        over = False
        while not over:
            observations, reward, terminated, truncated, _ = env.step(native(env, action))
            total += float(reward)
            over = terminated or truncated
            if not over:
                action = runner.act(observations).action
        return total
    finally:
        env.close()


def native(env: gymnasium.Env[Any, Any], action: np.ndarray) -> Any:
    """Return an action as the environment wants it: an int for a discrete one, else the array."""
    return int(action) if isinstance(env.action_space, gymnasium.spaces.Discrete) else action
