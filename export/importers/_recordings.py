"""Recorded observations of a policy that was trained elsewhere, kept beside its bundle in a folder like a run's.

    model.run/
      source.json                                 whose policy it is, and the spec that it was exported with
      observations/calibration.safetensors.gz, held-out.safetensors.gz

They come from a file, or from the environment that the spec names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from export.importers import FACTS, Facts, ImportedPolicy, in_words, read_facts
from export.importers._acting import Acting, refuse_what_is_not_finite
from export.importers._deployable import Deployable
from export.importers._deployed import digest
from export.onnx_graph import GRAPH, GraphPolicy
from xfer import tasks
from xfer.errors import RunError, UnavailableError, UsageError
from xfer.evaluate import CALIBRATION_SEED, HELD_OUT_SEED, episode_returns, native, record_to
from xfer.files import to_json, writable, write_atomically
from xfer.spec import PolicySpec, RewardScale
from xfer.tasks import Task
from xfer.tasks._environment import Environment
from xfer.training.run_folder import RunFolder
from xfer.trajectories import MEMORY, OBSERVATIONS, Trajectories, load_trajectories
from xfer.trajectories.reading import Tensor

MIN_OBSERVATIONS = 64
"""Fewest observations in a file: half of them are held out."""
RECORDED = {"calibration": (CALIBRATION_SEED, 256, 64), "held-out": (HELD_OUT_SEED, 1000, 250)}
"""First seed, how many observations, at most how many of one episode: value ranges need several episodes, regret needs
long ones."""
SCALE_EPISODES = 10
"""Episodes of random actions, and of the policy, that the reward scale is measured in."""


def gather(
    policy: Deployable | GraphPolicy,
    source: str,
    folder: Path,
    file: Path | None,
    memory: int = MEMORY,
    on_note: Callable[[str], None] = lambda text: None,
) -> ImportedPolicy:
    """Return the policy with its recorded observations; those that ``folder`` keeps of this very policy are used again.

    Args:
        policy: The policy.
        source: What it was imported from.
        folder: Where its observations are kept from now on.
        file: Recorded observations, or None for the environment.
        memory: Bytes of observations that may be in memory at once.
        on_note: Called with what recording them will take, before it begins.

    Raises:
        UsageError: If there is neither file nor environment, or one of them does not fit the spec.
        RunError: If the file is damaged, or the folder cannot be written to.
    """
    run, weights = RunFolder(folder), digest(policy)
    known = read_facts(folder)
    if known is not None and (known.weights, _unscaled(known.spec)) != (weights, _unscaled(policy.spec)):
        known = None
    task, why = environment(policy.spec)
    steps = task.max_episode_steps if task is not None else None
    if known is not None and steps is not None and known.max_episode_steps != steps:
        known = None  # its reward scale is of other episodes
    if known is not None:
        steps = known.max_episode_steps
    if file is None and known is None and task is None:
        raise UsageError(f"{source}: {why}. Give observations recorded while the policy acted: --observations FILE.")
    with writable(folder, RunError):
        (folder / "observations").mkdir(parents=True, exist_ok=True)
    if file is not None:
        given = load_trajectories(file, memory // 2, check=partial(_check, policy.spec, str(file)))
        given = _of_spec(given, policy.spec)
        refuse_what_is_not_finite(policy, given, str(file))
        parts = split(given, str(file), policy.spec)
        with writable(folder, RunError):
            for name, part in zip(RECORDED, parts, strict=True):
                part.save(run.observations_file(name))
    elif task is not None and known is None:
        on_note(_estimate(policy.spec, memory))
        for name, (seed, length, stretch) in RECORDED.items():
            record_to(run.observations_file(name), task, Acting(policy), seed, length, stretch)
    reward = policy.spec.reward
    if reward is None and known is not None:
        reward = known.spec.reward
    elif reward is None and task is not None:
        reward = task.reward or measured(task, policy)
    spec = replace(policy.spec, reward=reward)
    with writable(folder, RunError):
        write_atomically(folder / FACTS, to_json(Facts(source, weights, spec, steps)))
    renewed = file is not None or known is None
    own = replace(policy, spec=spec)
    imported = ImportedPolicy(own, folder, renewed=renewed, memory=memory, max_episode_steps=steps)
    return replace(imported, reference=GRAPH) if isinstance(policy, GraphPolicy) else imported


def environment(spec: PolicySpec) -> tuple[Task | None, str]:
    """Return where a policy acts, or None and why there is nothing to act in here.

    Raises:
        UsageError: If the environment gives or takes something else than the policy.
    """
    if not spec.task:
        return None, "its spec names no task"
    try:
        task = tasks.load_recorded(spec.task)
    except UnavailableError as error:
        return None, str(error)
    except UsageError as error:
        return None, f"there is no environment for its task '{spec.task}' here: {str(error).rstrip('.')}"
    given = {o.name: (o.dtype, o.shape) for o in task.observations}
    seen = {o.name: (o.dtype, o.shape) for o in spec.observations}
    if given != seen:
        raise UsageError(f"Task {task.name} gives {_listed(given)}; the policy sees {_listed(seen)}.")
    taken, chosen = ((a.kind, len(a.elements), a.low, a.high) for a in (task.action, spec.action))
    if taken[:2] != chosen[:2] or (spec.action.low and taken != chosen):  # what clips nothing leaves it to the task
        raise UsageError(f"Task {task.name} takes {task.action}; the policy gives {spec.action}.")
    return task, ""


def split(recorded: Trajectories, name: str, spec: PolicySpec) -> tuple[Trajectories, Trajectories]:
    """Cut observations into those for calibration and those that are held out.

    The cut is where an episode begins, if one does in the middle half; else in the middle, where states are then
    reset, and at an inference, if one falls there. Actions of another runtime are left out of what lies behind a cut
    that takes from the policy what it acted from: a state, a frame or a plan.

    Args:
        recorded: The observations, perhaps with actions.
        name: What to call them.
        spec: The policy's contract.

    Raises:
        UsageError: If there are too few.
    """
    total = len(recorded)
    if total < MIN_OBSERVATIONS:
        raise UsageError(
            f"{name} holds {total} observations; at least {MIN_OBSERVATIONS} are needed, half of them held out."
        )
    begins = np.flatnonzero(recorded.resets)
    begins = begins[(begins >= total // 4) & (begins <= total - total // 4)]
    possible, kept = begins, True
    if not len(begins):
        start = max(np.flatnonzero(recorded.resets[: total // 2]), default=0)
        possible = np.arange(start, total, spec.action.execute)
        possible = possible[(possible >= total // 4) & (possible <= total - total // 4)]
        kept = len(possible) > 0 and not spec.starts and spec.action.ensemble is None
    cut = int(possible[np.abs(possible - total // 2).argmin()]) if len(possible) else total // 2
    resets = recorded.resets.copy()
    resets[[0, cut]] = True
    whole = replace(recorded, resets=resets)
    held_out = whole.take([slice(cut, total)])
    return whole.take([slice(0, cut)]), held_out if kept else replace(held_out, actions=None)


def measured(task: Task, policy: Deployable | GraphPolicy) -> RewardScale | None:
    """Return the mean returns of random actions and of the policy itself, or None if the policy is no better."""
    seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + SCALE_EPISODES)
    reference = float(np.mean([value for _, value in episode_returns(task, Acting(policy), seeds)]))
    random = float(np.mean(list(_random_returns(task, seeds))))
    return RewardScale(random, reference) if reference > random else None


def _random_returns(task: Task, seeds: range) -> Iterator[float]:
    env = Environment(task)
    try:
        for seed in seeds:
            env.reset(seed=seed)
            env.action_space.seed(seed)
            total, over = 0.0, False
            while not over:
                _, reward, terminated, truncated, _ = env.step(native(env, env.action_space.sample()))
                total, over = total + reward, terminated or truncated
            yield total
    finally:
        env.close()


def _unscaled(spec: PolicySpec) -> PolicySpec:
    return replace(spec, reward=None)


def _estimate(spec: PolicySpec, memory: int) -> str:
    """Say how much will be recorded."""
    count = sum(length for _, length, _ in RECORDED.values())
    said = (
        f"recording {count:,} observations of {in_words(spec.bytes_per_step)}: {in_words(count * spec.bytes_per_step)}"
    )
    if count * spec.bytes_per_step > memory:
        said += f", on disk, compressed; at most {in_words(memory)} of it in memory (--max-memory)"
    return said


def _check(spec: PolicySpec, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a file that lacks an observation of the spec, or has other actions."""
    found = {
        key.removeprefix(OBSERVATIONS): (str(tensor.dtype), tensor.shape[1:])
        for key, tensor in tensors.items()
        if key.startswith(OBSERVATIONS)
    }
    due = {o.name: (o.dtype, o.shape) for o in spec.observations}
    lengths = {tensor.shape[:1] for key, tensor in tensors.items() if key.startswith(OBSERVATIONS) or key == "resets"}
    if any(found.get(key) != wanted for key, wanted in due.items()) or len(lengths) > 1:
        raise UsageError(f"{name} holds {_listed(found)}; the policy sees {_listed(due)}, one row a step.")
    actions, action = tensors.get("actions"), spec.action.tensor
    if actions is not None:
        kind = {"discrete": np.integer, "continuous": np.floating}[spec.action.kind]
        wanted = (*lengths.pop(), *action.shape)
        if actions.shape != wanted or not np.issubdtype(actions.dtype, kind):
            raise UsageError(
                f"{name} holds actions: {actions}; the policy gives {action.dtype} {list(wanted)}. Give those, or"
                " leave `actions` out of the file."
            )


def _of_spec(recorded: Trajectories, spec: PolicySpec) -> Trajectories:
    """Return the observations that the spec names, and the actions if there are any."""
    actions = None if recorded.actions is None else recorded.actions.astype(spec.action.tensor.dtype)
    return Trajectories({o.name: recorded.observations[o.name] for o in spec.observations}, recorded.resets, actions)


def _listed(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name}: {dtype} {list(shape)}" for name, (dtype, shape) in tensors.items()) or "nothing"
