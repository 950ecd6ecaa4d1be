"""What `xfer record` does: write what an expert or a trained policy does as a Minari dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from xfer import tasks
from xfer.commands import Common
from xfer.errors import UsageError
from xfer.runner import Arrays
from xfer.training.minari_writer import EpisodeWriter, new_dataset

if TYPE_CHECKING:
    import gymnasium

    Act = Callable[[gymnasium.Env, Arrays], np.ndarray]
    """What gives the action for an environment's present observations."""


@dataclass(kw_only=True)
class Args(Common):
    """Record demonstrations: episodes of a task's expert, or of a trained policy, as a Minari dataset.

    Frames are kept as they are (lossless). `xfer train TASK --demonstrations DATASET` learns from them, and so does
    everything else that reads Minari.

    Example commands:
      xfer record cartpole --output cartpole/expert-v0
      xfer record runs/cartpole --output demonstrations/cartpole --episodes 50
    """

    source: Annotated[str, tyro.conf.Positional]
    """Task whose expert acts, or folder of the run whose policy does."""
    output: str
    """Name of the dataset (cartpole/expert-v0; kept under $MINARI_DATASETS_PATH or ~/.minari/datasets), or a folder."""
    episodes: int = 10
    """How many."""
    seed: int = 0
    """Seed of the first; the next ones count up."""
    task: str | None = None
    """The run's task, where that is somebody's own module:function: it is imported only if you name it here."""


def main(args: Args) -> dict[str, Any]:
    """Record, and return the object that ``--json`` prints."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if args.episodes < 1:
        raise UsageError("--episodes must be at least 1.")
    tasks.trust(args.task)
    task, begin, who = actor(args.source)
    console = Console()
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    returns: list[float] = []
    with (
        new_dataset(args.output, task, who) as (writer, name, folder),
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        bar = progress.add_task("recording", total=args.episodes, note="")
        for steps, value in record(task, begin, range(args.seed, args.seed + args.episodes), writer):
            returns += [] if value is None else [value]
            note = f"{steps} frames" + (f", mean return {fmean(returns):.1f}" if returns else "")
            progress.update(bar, completed=len(returns), note=note)
    console.print(
        f"{folder}: {args.episodes} episodes of {who}, {writer.steps} frames, mean return {fmean(returns):.1f}",
        markup=False,
        soft_wrap=True,
    )
    return {
        "dataset": name,
        "folder": str(folder),
        "episodes": args.episodes,
        "frames": writer.steps,
        "returns": returns,
        "return_mean": fmean(returns),
        "size_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }


def actor(source: str) -> tuple[tasks.Task, Callable[[], Act], str]:
    """Return a task, what begins an episode (see ``record``), and who acts, in words.

    Args:
        source: Name of a task that has an expert, or folder of a finished run.

    Raises:
        UsageError: If it is neither.
        RunError: If the run is not finished.
    """
    if not (Path(source) / "config.json").is_file():
        task = tasks.load(source)
        act = expert_action(task)
        return task, lambda: act, f"the expert of {task.name}"
    from xfer.models.torch_session import runner
    from xfer.training.run_folder import RunFolder

    folder = RunFolder(source)
    task = tasks.load_recorded(folder.config().task)
    policy = runner(folder.policy())

    def begin() -> Act:
        policy.reset()
        return lambda env, observations: policy.act(observations).action

    return task, begin, f"the policy of {source}"


def expert_action(task: tasks.Task) -> Act:
    """Return what does as the task's expert says.

    Raises:
        UsageError: If it has none.
    """
    expert = task.expert
    if expert is None:
        raise UsageError(f"Task {task.name} has no expert. Give the folder of a run that was trained on it.")
    discrete = task.action.kind == "discrete"
    return lambda env, observations: np.asarray(expert(env).argmax()) if discrete else expert(env)


def record(
    task: tasks.Task, begin: Callable[[], Act], seeds: range, writer: EpisodeWriter
) -> Iterator[tuple[int, float | None]]:
    """Run an episode from each seed and write it; yield (steps so far, the episode's return at its end, else None).

    Args:
        task: Where.
        begin: Called when an episode begins; what it returns gives the action for each observation.
        seeds: One for each episode.
        writer: What keeps them.
    """
    from xfer.evaluate import native

    env = task.make()
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
                writer.step(action, _copied(observations), float(reward), bool(terminated), bool(truncated))
                total += float(reward)
                over = bool(terminated or truncated)
                steps += 1
                yield steps, total if over else None
    finally:
        env.close()


def _copied(observations: Arrays) -> Arrays:
    """Return copies: the environment may draw the next frame into the same array."""
    return {name: array.copy() for name, array in observations.items()}
