"""``record``: write the episodes of an expert or a trained policy as a Minari dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from xfer import tasks
from xfer.errors import UsageError
from xfer.evaluate import native
from xfer.runner import Arrays
from xfer.tasks._environment import Environment
from xfer.training.minari_writer import EPISODES, EpisodeWriter, new_dataset

Act = Callable[[Environment, Arrays], np.ndarray]
"""Gives the action for an environment's present observations."""


@dataclass(frozen=True)
class Recorded:
    """A dataset that was recorded.

    Attributes:
        dataset: Its name.
        folder: Where it is.
        actor: Who acted, in words.
        frames: Steps of all episodes.
        returns: Return of each episode.
    """

    dataset: str
    folder: Path
    actor: str
    frames: int
    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return fmean(self.returns)

    def summary(self) -> dict[str, Any]:
        """Return the object that ``xfer record --json`` prints."""
        return {
            "dataset": self.dataset,
            "folder": str(self.folder),
            "episodes": len(self.returns),
            "frames": self.frames,
            "returns": list(self.returns),
            "return_mean": self.mean,
            "size_bytes": sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()),
        }


def record(
    source: str | tasks.Task,
    output: str,
    *,
    episodes: int = EPISODES,
    seed: int = 0,
    tick: Callable[[int, list[float]], None] = lambda frames, returns: None,
) -> Recorded:
    """Do what ``xfer record`` does: write episodes of a task's expert, or of a trained policy, as a Minari dataset.

    Args:
        source: A task whose expert acts, its name, or the folder of a run whose policy does.
        output: Name of the dataset (kept where Minari keeps its own), or a folder.
        episodes: How many.
        seed: Seed of the first; the next ones count up.
        tick: Called after each step with the number of frames and the returns so far.

    Raises:
        UsageError: If the source is neither, the task has no expert, or a number is out of range.
        RunError: If the run is not finished.
        UnavailableError: If Minari is not installed, or the run's task is a user's own and not trusted.
        TaskError: If the environment fails, or does not end.
    """
    if episodes < 1:
        raise UsageError("--episodes must be at least 1.")
    if seed < 0:
        raise UsageError(f"--seed must be at least 0, not {seed}.")
    task, begin, who = actor(source)
    returns: list[float] = []
    with new_dataset(output, task, who) as (writer, name, folder):
        for frames, value in record_episodes(task, begin, range(seed, seed + episodes), writer):
            returns += [] if value is None else [value]
            tick(frames, returns)
    return Recorded(name, folder, who, writer.steps, tuple(returns))


def actor(source: str | tasks.Task) -> tuple[tasks.Task, Callable[[], Act], str]:
    """Return a task, what begins an episode (see ``record_episodes``), and who acts, in words.

    Args:
        source: A task that has an expert, its name, or the folder of a finished run.

    Raises:
        UsageError: If it is none of these.
        RunError: If the run is not finished.
    """
    if isinstance(source, tasks.Task) or not (Path(source) / "config.json").is_file():
        task = tasks.load(source) if isinstance(source, str) else source
        act = expert_action(task)
        return task, lambda: act, f"the expert of {task.name}"
    from xfer.models.torch_session import runner
    from xfer.training.run_folder import RunFolder

    folder = RunFolder(source)
    task = tasks.load_recorded(folder.config().task)
    if task.max_episode_steps is None:
        task = replace(task, max_episode_steps=folder.config().max_episode_steps)
    policy = runner(folder.policy())

    def begin() -> Act:
        policy.reset()
        return lambda env, observations: policy.act(observations).action

    return task, begin, f"the policy of {source}"


def expert_action(task: tasks.Task) -> Act:
    """Return what acts as the task's expert does.

    Raises:
        UsageError: If it has none.
    """
    if task.expert is None:
        raise UsageError(f"Task {task.name} has no expert. Give the folder of a run that was trained on it.")
    discrete = task.action.kind == "discrete"
    return lambda env, observations: np.asarray(env.advice().argmax()) if discrete else env.advice()


def record_episodes(
    task: tasks.Task, begin: Callable[[], Act], seeds: range, writer: EpisodeWriter
) -> Iterator[tuple[int, float | None]]:
    """Run an episode from each seed and write it; yield (steps so far, the episode's return at its end, else None).

    Args:
        task: Whose environment is run.
        begin: Called when an episode begins; returns what gives the action for each observation.
        seeds: One for each episode.
        writer: Keeps them.
    """
    env = Environment(task)
    steps = 0
    try:
        for seed in seeds:
            act = begin()
            observations, _ = env.reset(seed=seed)
            writer.begin(seed, _copied(observations))
            total, over = 0.0, False
            while not over:
                action = native(env, act(env, observations))
                observations, reward, terminated, truncated, _ = env.step(action)
                writer.step(action, _copied(observations), reward, terminated, truncated)
                total += reward
                over = terminated or truncated
                steps += 1
                yield steps, total if over else None
    finally:
        env.close()


def _copied(observations: Arrays) -> Arrays:
    """Return copies: the environment may draw the next frame into the same array."""
    return {name: array.copy() for name, array in observations.items()}
