"""The progress bar of a bench. Nothing of it runs during a turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(total: int) -> Iterator[Callable[[str, str], None]]:
    """Show a bar on stderr.

    Args:
        total: How many steps there will be.

    Yields:
        What to call before each step, with a row's name and what comes next.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # It is drawn when a step begins and not in between: a thread that redraws it would disturb what is measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("bench", total=total)
        begun = 0

        def on_step(name: str, stage: str) -> None:
            nonlocal begun
            progress.update(task, completed=begun, description=f"{name}: {stage}", refresh=True)
            begun += 1

        yield on_step
