"""What `xfer record` does: parse, record, show."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

import tyro

from xfer import tasks
from xfer.commands import Episodes, truncates
from xfer.training.minari_writer import EPISODES


@dataclass(kw_only=True)
class Args(Episodes):
    """Record demonstrations: episodes of a task's expert, or of a trained policy, as a Minari dataset.

    Frames are kept lossless. `xfer train TASK --demonstrations DATASET` learns from
    them, and so can everything else that reads Minari.

    Example commands:
      xfer record cartpole --output cartpole/expert-v0
      xfer record runs/cartpole --output demonstrations/cartpole --episodes 50
    """

    source: Annotated[str, tyro.conf.Positional]
    """Task whose expert acts, or folder of the run whose policy does."""
    output: str
    """Name of the dataset (cartpole/expert-v0; kept under $MINARI_DATASETS_PATH or ~/.minari/datasets), or a folder."""
    episodes: int = EPISODES
    """Episodes to record."""
    seed: int = 0
    """Seed of the first episode; the next ones count up."""
    task: str | None = None
    """The run's task, if it is a user's own module:function: that code is only imported if you name it here."""


@truncates
def main(args: Args) -> dict[str, Any]:
    """Record, and return the object that ``--json`` prints."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from xfer.training.record import record

    tasks.trust(args.task)
    console = Console()
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("recording", total=max(1, args.episodes), note="")

        def tick(frames: int, returns: list[float]) -> None:
            note = f"{frames} frames" + (f", mean return {fmean(returns):.1f}" if returns else "")
            progress.update(bar, completed=len(returns), note=note)

        recorded = record(args.source, args.output, episodes=args.episodes, seed=args.seed, tick=tick)
    console.print(
        f"{recorded.folder}: {args.episodes} episodes of {recorded.actor}, {recorded.frames} frames,"
        f" mean return {recorded.mean:.1f}",
        markup=False,
        soft_wrap=True,
    )
    return recorded.summary()
