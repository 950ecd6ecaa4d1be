"""The report in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from benchmarks.report import table
from benchmarks.report.data import Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.report.figures import LoopFigures

WIDE = 150
"""Columns of text from which on everything stands in one table."""

WHAT_IT_DOES, WHAT_IT_COSTS = (0, 1, 3, 4, 5), (0, 2, 6, 7, 8)
"""Indices of ``table.COLUMNS``."""

COLORS = {
    "verified": "green",
    "provisional": "yellow",
    "rejected": "red",
    "built": "cyan",
    "failed": "red",
    "unavailable": "bright_black",
}


def show(report: Report, paths: dict[str, str], console: Console | None = None) -> None:
    """Print tables, reasons, graph, machine, what to keep in mind, the verdict and where the files are."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    # Nine columns do not fit an ordinary window: what a variant does and what it costs become two tables.
    groups: list[tuple[int, ...]] = [WHAT_IT_DOES, WHAT_IT_COSTS]
    if console.width >= WIDE:
        groups = [tuple(sorted({*WHAT_IT_DOES, *WHAT_IT_COSTS}))]
    for group in groups:
        grid = _grid()
        for index in group:
            justify: Literal["left", "right"] = "left" if index < 2 else "right"
            grid.add_column(_broken(table.COLUMNS[index]), justify=justify, no_wrap=index > 0, overflow="fold")
        for row in report.rows:
            if group == WHAT_IT_DOES and row["whole_backbone"]:
                continue
            cells = [Text(_broken(cell)) for cell in table.cells(row)]
            cells[1].stylize(COLORS[row["status"]])
            for mark in table.marks(row):
                cells[6].append(f"\n{mark}", "bold yellow")
            grid.add_row(*(cells[index] for index in group))
        console.print(grid)
        console.print()
    if report.findings.loops:
        _show_loops(report.findings.loops, console)
    for variant, reason in report.reasons:
        console.print(Text(f"{variant}: ", "bold") + Text(reason))
    for line in report.graph_lines:
        console.print(Text("graph: ", "bold") + Text(line))
    console.print(Text("machine: ", "bold") + Text(report.machine_line))
    for note in report.notes:
        console.print(Text(note))
    for caveat in report.findings.caveats:
        console.print(Text(f"{caveat.mark}: ", "bold yellow") + Text(caveat.text, "yellow"))
    console.print(Text(report.findings.headline, "bold green"))
    for sentence in report.findings.misses:
        console.print(Text(sentence, "bold red"))
    # Not wrapped: a path that is cut in two cannot be opened from the terminal.
    console.print(Text(f"report: {paths['html']}"), soft_wrap=True)


def _show_loops(loops: Sequence[LoopFigures], console: Console) -> None:
    """Print a line for each variant's control loop."""
    from rich.text import Text

    console.print(Text(f"control loop at {loops[0].rate_hz:g} Hz, deadline {loops[0].deadline_ms:g} ms", "bold"))
    grid = _grid()
    for heading in ("Variant", "Missed", "p50", "Worst", "Jitter", "Worst\nafter idle"):
        grid.add_column(heading, justify="left" if heading == "Variant" else "right", overflow="fold")
    for loop in loops:
        missed = f"{loop.missed:,} of {loop.ticks:,}" if loop.ticks else "not run"
        after_idle = max((idle.worst_ms for idle in loop.after_idle.values()), default=None)
        times = (loop.p50_ms, loop.worst_ms, loop.jitter_ms, after_idle)
        grid.add_row(Text(loop.name), Text(missed, "green" if loop.kept else "red"), *map(table.milliseconds, times))
    console.print(grid)
    console.print()


def _grid() -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def _broken(text: str) -> str:
    """Break a cell where it may be broken: before bounds, after a comma outside of them, in a long heading."""
    head, bracket, bounds = text.partition(" [")
    head = head.replace(", ", ",\n").replace("max ", "max\n").replace(" against", "\nagainst")
    return f"{head}\n[{bounds}" if bracket else head
