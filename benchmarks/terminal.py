"""The report in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import table
from benchmarks.report import QUICK, Report, verdict

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 150
"""Columns of text from which on everything stands in one table."""

BREAKABLE = (4, 5, 8)
"""Cells that may be broken at a space in a narrow window."""

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
    everything = range(1, len(table.COLUMNS))
    # Nine columns do not fit an ordinary window: what a variant does and what it costs become two tables.
    groups = [list(everything)] if console.width >= WIDE else [[1, 3, 4, 5], [2, 6, 7, 8]]
    for group in groups:
        grid = Table(header_style="bold", box=SIMPLE_HEAD)
        for index in [0, *group]:
            grid.add_column(
                table.COLUMNS[index],
                justify="left" if index < 2 else "right",
                no_wrap=index not in BREAKABLE,
                overflow="fold",
            )
        for row in report.rows:
            cells = [Text(cell) for cell in table.cells(row)]
            cells[1].stylize(COLOURS[row["status"]])
            for mark in table.marks(row):
                cells[6].append(f"\n{mark}", "bold yellow")
            grid.add_row(*(cells[index] for index in [0, *group]))
        console.print(grid)
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
