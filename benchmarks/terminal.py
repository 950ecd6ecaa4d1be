"""The report in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from benchmarks import table
from benchmarks.report import QUICK, Report, verdict

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 150
"""Columns of text from which on everything stands in one table."""

WHAT_IT_DOES, WHAT_IT_COSTS = (0, 1, 3, 4, 5), (0, 2, 6, 7, 8)
"""Indices of ``table.COLUMNS``."""

COLOURS = {
    "verified": "green",
    "provisional": "yellow",
    "rejected": "red",
    "built": "cyan",
    "failed": "red",
    "unavailable": "bright_black",
}


def show(report: Report, paths: dict[str, str], console: Console | None = None) -> None:
    """Print table, reasons, graph, machine and where the files are."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    # Nine columns do not fit an ordinary window: what a variant does and what it costs become two tables.
    groups: list[tuple[int, ...]] = [WHAT_IT_DOES, WHAT_IT_COSTS]
    if console.width >= WIDE:
        groups = [tuple(sorted({*WHAT_IT_DOES, *WHAT_IT_COSTS}))]
    for group in groups:
        grid = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for index in group:
            justify: Literal["left", "right"] = "left" if index < 2 else "right"
            grid.add_column(_broken(table.COLUMNS[index]), justify=justify, no_wrap=index > 0, overflow="fold")
        for row in report.rows:
            if group == WHAT_IT_DOES and row["whole_backbone"]:
                continue
            cells = [Text(_broken(cell)) for cell in table.cells(row)]
            cells[1].stylize(COLOURS[row["status"]])
            for mark in table.marks(row):
                cells[6].append(f"\n{mark}", "bold yellow")
            grid.add_row(*(cells[index] for index in group))
        console.print(grid)
        console.print()
    for variant, reason in report.reasons:
        console.print(Text(f"{variant}: ", "bold") + Text(reason))
    for line in report.graph_lines:
        console.print(Text("graph: ", "bold") + Text(line))
    console.print(Text("machine: ", "bold") + Text(report.machine_line))
    for note in report.notes:
        console.print(Text(note))
    if report.protocol.quick:
        console.print(Text(QUICK, "bold yellow"))
    console.print(Text(verdict(report.rows), "bold green"))
    # Not wrapped: a path that is cut in two cannot be opened from the terminal.
    console.print(Text(f"report: {paths['html']}"), soft_wrap=True)


def _broken(text: str) -> str:
    """Break a cell where it may be broken: before bounds, after a comma outside of them, in a long heading."""
    head, bracket, bounds = text.partition(" [")
    head = head.replace(", ", ",\n").replace("max ", "max\n").replace(" against", "\nagainst")
    return f"{head}\n[{bounds}" if bracket else head
