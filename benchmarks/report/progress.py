"""The progress bar of a bench. Nothing of it runs during a turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar() -> Iterator[Callable[[str, str, float], None]]:
    """Show a bar on stderr.

    Yields:
        What ``bench`` calls before each step, with a row's name, what comes next, and the share that is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # It is drawn when a step begins and not in between: a thread that redraws it would disturb what is measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("bench", total=1.0)

        def on_step(name: str, stage: str, done: float) -> None:
            progress.update(task, completed=done, description=f"{name}: {stage}", refresh=True)

        yield on_step
