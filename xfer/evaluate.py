"""Seeded evaluation episodes: the only place that runs them.

A ``Runner`` acts here, whatever is behind it: a policy in training, or any variant of a bundle.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from xfer.errors import RewardError, TaskError
from xfer.runner import Arrays, Runner
from xfer.tasks import Task
from xfer.tasks._environment import Environment
from xfer.trajectories import Trajectories, save_steps

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
    circles = task.circles and not runner.spec.states and not runner.spec.queued
    rows = [_Row(Environment(task), circles) for _ in range(runner.batch)]
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
    spec = actor.spec
    observations = {o.name: np.empty((length, *o.shape), o.dtype) for o in spec.observations}
    resets = np.empty(length, bool)
    with closing(_recorded(task, actor, seed, length, stretch)) as steps:
        for t, (begins, seen) in enumerate(steps):
            resets[t] = begins
            for name, rows in observations.items():
                rows[t] = seen[name]
    return Trajectories(observations, resets)


def record_to(path: Path, task: Task, actor: Runner, seed: int, length: int, stretch: int) -> None:
    """Write what ``record`` returns to a file, step by step, so that it need not fit into memory.

    Raises:
        RunError: If the file cannot be written; nothing is left behind.
    """
    with closing(_recorded(task, actor, seed, length, stretch)) as steps:
        save_steps(path, steps)


def _recorded(
    task: Task, actor: Runner, seed: int, length: int, stretch: int
) -> Generator[tuple[bool, dict[str, np.ndarray]], None, None]:
    """Yield (does an episode begin here, observations)."""
    env, left = Environment(task), length
    try:
        while left:
            observations, _ = env.reset(seed=seed)
            actor.reset()
            seed += 1
            for step in range(min(stretch, left)):
                seen = _seen(actor, observations)
                action = actor.act(observations).action
                yield step == 0, {o.name: seen[o.name].reshape(o.shape) for o in actor.spec.observations}
                left -= 1
                observations, _, terminated, truncated, _ = env.step(native(env, action))
                if terminated or truncated:
                    break
    finally:
        env.close()


class _Row:
    """One environment of a batch, and the episode that is running in it."""

    def __init__(self, env: Environment, circles: bool) -> None:
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
        self.total += reward
        return terminated or truncated or (self.circles and self.circled())

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
        scores: The reference's scores of that action, float32 [S].
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
        error: Why the variant did not finish its episode (its return is then NaN), and at which step; or empty.
        cause: What it raised there, if it did.
        differs: How the environment, replayed from the same seed with the same actions, gave another episode; or empty.
            If it did, each of the two had an episode of its own from the beginning.
    """

    seed: int
    reference: float
    variant: float
    fork: Fork | None
    error: str = ""
    differs: str = ""
    cause: Exception | None = None


class _VariantFailed(Exception):  # noqa: N818 - it is caught here, and becomes a Pair's error
    """A variant could not act: its arithmetic is broken, or its runtime gave up. The message names the step."""

    def __init__(self, step: int, cause: Exception) -> None:
        super().__init__(f"at step {step}: {cause}")
        self.cause = cause


def paired_episode(
    task: Task, reference: Runner, variants: Mapping[str, Runner], seed: int, tolerance: np.ndarray | float = 0.0
) -> dict[str, Pair]:
    """Run the reference and all variants from one seed, together for as long as they agree.

    As long as a variant chooses the reference's action, both are in the same episode, and it is stepped once.
    Where their actions first differ the variant forks: a second environment is brought to that moment by
    replaying the actions from the same seed, and goes on alone. A variant that never forks
    has the reference's return by construction.

    That needs an environment that gives the same episode again. So each replay is compared with the first episode:
    rewards and ends at every step, observations at the beginning and at the fork. Where a variant never forked, the
    whole episode is replayed for that alone. Where they differ, all have episodes of their own; see
    ``independent_episodes``.

    A fault of the environment is an error of its own, whoever acts. With one exception: a reward that is NaN or
    infinite where a variant acts alone. Its own actions led there (finite ones, but perhaps huge), so its episode has
    failed.

    Args:
        task: Where to act.
        reference: Runner of batch 1.
        variants: Runners of batch 1, by name.
        seed: Seed of the episode.
        tolerance: Largest difference of each element that is the same action still, in the action's units, [A]. Within
            it the reference's action is the one that is taken.

    Raises:
        TaskError: If the environment fails; RewardError among them, if the reference acts.
    """
    for runner in (reference, *variants.values()):
        runner.reset()
    together = dict(variants)
    forks: dict[str, Fork] = {}
    errors: dict[str, _VariantFailed] = {}
    env = Environment(task)
    try:
        observations, _ = env.reset(seed=seed)
        first = _FirstEpisode(seed, _seen(reference, observations))
        while not first.over:
            action, scores = reference.act(observations)
            for name in list(together):
                try:
                    other = _act(together[name], observations, len(first.actions))
                except _VariantFailed as failed:
                    errors[name] = failed
                    del together[name]
                    continue
                if not same_action(other, action, tolerance):
                    forks[name] = Fork(len(first.actions), _seen(reference, observations), scores, action, other)
                    del together[name]
            observations, reward, terminated, truncated, _ = env.step(native(env, action))
            first.add(action, reward, terminated, truncated)
        last = _seen(reference, observations)
    finally:
        env.close()
    total = _total(first.rewards)
    pairs = {name: Pair(seed, total, total, None) for name in together}
    pairs |= {name: Pair(seed, total, math.nan, None, str(e), cause=e.cause) for name, e in errors.items()}
    try:
        for name, fork in forks.items():
            try:
                pairs[name] = Pair(seed, total, _finish_fork(task, variants[name], first, fork), fork)
            except (_VariantFailed, RewardError) as failed:
                cause = failed.cause if isinstance(failed, _VariantFailed) else None
                pairs[name] = Pair(seed, total, math.nan, fork, str(failed), cause=cause)
        if together:
            _replay_whole(task, first, last)
    except _EpisodesDiffer as differ:
        differs = f"the environment gives another episode for the same seed: {differ}"
        return independent_episodes(task, reference, variants, seed, differs)
    return {name: pairs[name] for name in variants}


def independent_episodes(
    task: Task, reference: Runner, variants: Mapping[str, Runner], seed: int, differs: str
) -> dict[str, Pair]:
    """Run the reference and each variant from one seed, each in an episode of its own.

    For an environment that gives another episode for the same seed: there a variant that was in the reference's episode
    would prove nothing. What such an environment draws from the generators that Python and NumPy keep for everybody
    depends on the seed alone, so that it does not matter what else runs in this process.

    Args:
        task: Where to act.
        reference: Runner of batch 1.
        variants: Runners of batch 1, by name.
        seed: Seed of the episodes.
        differs: How the environment gave another episode.

    Raises:
        TaskError: As ``paired_episode``.
    """
    for runner in (reference, *variants.values()):
        runner.reset()
    total = _return_alone(task, seed, "reference", lambda observations, step: reference.act(observations).action)
    pairs = {}
    for name, runner in variants.items():
        try:
            variant = _return_alone(task, seed, "variant", partial(_act, runner))
            pairs[name] = Pair(seed, total, variant, None, differs=differs)
        except (_VariantFailed, RewardError) as failed:
            cause = failed.cause if isinstance(failed, _VariantFailed) else None
            pairs[name] = Pair(seed, total, math.nan, None, str(failed), differs, cause)
    return pairs


def same_action(one: np.ndarray, other: np.ndarray, tolerance: np.ndarray | float = 0.0) -> bool:
    """Whether two actions differ in no element by more than ``tolerance``; one that is not a number never does not."""
    if np.shape(one) != np.shape(other):
        return False
    with np.errstate(invalid="ignore"):
        return bool((np.abs(np.subtract(one, other, dtype=np.float64)) <= tolerance).all())


class _EpisodesDiffer(Exception):  # noqa: N818 - an answer: the environment is no function of seed and actions
    """The environment gave another episode for the same seed and actions; the message says where."""


class _FirstEpisode:
    """The reference's episode, with what replays of it are compared with.

    Args:
        seed: Its seed.
        observations: What the environment gave at the beginning; kept.

    Attributes:
        actions: What was done at each step.
        rewards: What it gave.
        ends: Whether it terminated the episode, and whether it truncated it.
    """

    def __init__(self, seed: int, observations: Arrays) -> None:
        self._seed, self._begin = seed, observations
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.ends: list[tuple[bool, bool]] = []

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return bool(self.ends) and any(self.ends[-1])

    def add(self, action: np.ndarray, reward: float, terminated: bool, truncated: bool) -> None:
        """Add a step."""
        self.actions.append(action)
        self.rewards.append(reward)
        self.ends.append((terminated, truncated))

    def replay(self, env: Environment, steps: int, shown: Arrays) -> None:
        """Bring another environment to the moment after so many steps.

        Nothing is drawn on the way, where that is possible.

        Args:
            env: The environment.
            steps: How many.
            shown: What was observed at that moment.

        Raises:
            _EpisodesDiffer: If what it gives is not what this episode was given.
        """
        observations, _ = env.reset(seed=self._seed)
        self._compare(observations, self._begin, 0)
        for step in range(steps):
            try:
                now = env.advance(native(env, self.actions[step]))
            except TaskError as error:  # it took the same action before
                cause = error.__cause__ or error
                text = " ".join(str(cause).split())
                raise _EpisodesDiffer(f"{type(cause).__name__} at step {step} of the second ({text})") from error
            then = (self.rewards[step], *self.ends[step])
            for what, one, other in zip(("reward", "terminated", "truncated"), then, now, strict=True):
                if one != other:
                    raise _EpisodesDiffer(f"{what} {one} and {other} at step {step}")
        if steps:
            self._compare(env.look(), shown, steps)

    @staticmethod
    def _compare(observations: Arrays, shown: Arrays, step: int) -> None:
        for name, array in shown.items():
            if name not in observations or not np.array_equal(observations[name], array, equal_nan=True):
                raise _EpisodesDiffer(f"another observation '{name}' at step {step}")


def _finish_fork(task: Task, runner: Runner, first: _FirstEpisode, fork: Fork) -> float:
    """Replay the shared actions, take the variant's own, and let it finish; return its whole return."""
    env = Environment(task)
    try:
        first.replay(env, fork.step, fork.observations)
        rewards, action = first.rewards[: fork.step], fork.variant_action
        while True:
            observations, reward, terminated, truncated, _ = env.step(native(env, action))
            rewards.append(reward)
            if terminated or truncated:
                return _total(rewards)
            action = _act(runner, observations, len(rewards))
    finally:
        env.close()


def _replay_whole(task: Task, first: _FirstEpisode, last: Arrays) -> None:
    env = Environment(task)
    try:
        first.replay(env, len(first.actions), last)
    finally:
        env.close()


def _return_alone(task: Task, seed: int, part: str, act: Callable[[Arrays, int], np.ndarray]) -> float:
    """Return what an episode of one's own returns; ``act`` is given observations and the step."""
    random.seed(f"{part} {seed}")
    np.random.seed(random.getrandbits(32))
    env = Environment(task)
    try:
        observations, _ = env.reset(seed=seed)
        rewards: list[float] = []
        over = False
        while not over:
            observations, reward, terminated, truncated, _ = env.step(native(env, act(observations, len(rewards))))
            rewards.append(reward)
            over = terminated or truncated
        return _total(rewards)
    finally:
        env.close()


def _act(runner: Runner, observations: Arrays, step: int) -> np.ndarray:
    """Return a variant's action.

    Raises:
        _VariantFailed: If it makes no action of what the reference has acted on, or what it has come to see alone.
    """
    try:
        return runner.act(observations).action
    except Exception as error:  # whatever its runtime raises
        raise _VariantFailed(step, error) from error


def _total(rewards: Iterable[float]) -> float:
    """Return their sum, added one by one; ``sum`` would round otherwise, and a return must not depend on who adds."""
    total = 0.0
    for reward in rewards:
        total += reward
    return total


def _copies(observations: Arrays) -> dict[str, np.ndarray]:
    """Return arrays that stay as they are when the environment draws the next frame into its own."""
    return {name: np.array(array) for name, array in observations.items()}


def _seen(runner: Runner, observations: Arrays) -> dict[str, np.ndarray]:
    """Return copies of what the policy looks at; an environment may give a clock's time besides."""
    names = [observation.name for observation in runner.spec.observations]
    return _copies({name: observations[name] for name in names if name in observations})


def native(env: gymnasium.Env[Any, Any], action: np.ndarray) -> Any:
    """Return an action as the environment wants it: an int for a discrete one, else an array that it may change."""
    return int(action) if isinstance(env.action_space, gymnasium.spaces.Discrete) else np.array(action)
