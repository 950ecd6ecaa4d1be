"""The report in the terminal: it fits 80 columns, with one line a variant."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import alone, method, table
from benchmarks.report.conclusion import Findings
from benchmarks.report.data import Report
from benchmarks.report.rows import Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.report.figures import LoopFigures

COLORS = {
    "verified": "green",
    "provisional": "yellow",
    "rejected": "red",
    "built": "cyan",
    "failed": "red",
    "unavailable": "bright_black",
}
PROOF = {"kept": "green", "not proven": "yellow", "missed": "red"}
"""Colors of what a control loop proves."""

SIGNS = {"unstable": "~", "disturbed": "*"}
"""What stands behind a speed-up in place of a mark; a line below the table explains those that occur."""

WHOLE = " (whole "
"""What the name of a whole backbone's row has between the variant and the network."""


def show(report: Report, findings: Findings, paths: dict[str, str], console: Console | None = None) -> None:
    """Print table, reasons, graph, machine, what to keep in mind, what to ship and where the files are."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    console.print(_variants(report))
    if signs := _signs(report.rows):
        console.print(Text(signs, "yellow"))
    console.print()
    if findings.loops:
        _show_loops(findings.loops, console)
    _show_profile(report, console)
    if report.soak is not None:
        console.print(Text("soak: ", "bold") + Text(" ".join(alone.of_soak(report.soak))))
    # What a whole backbone's rows would say, its heading has said.
    print_reasons(table.reasons(row for row in report.rows if not row.whole_backbone or row.p50_ms is None), console)
    for line in method.graph_lines(report):
        console.print(Text("graph: ", "bold") + Text(line))
    for line in method.limit_lines(report):
        console.print(Text("arithmetic limit: ", "bold") + Text(line))
    console.print(Text("machine: ", "bold") + Text(method.machine_line(report)))
    console.print(Text("limits: ", "bold") + Text(str(report.limits)))
    for note in report.notes:
        console.print(Text(note))
    for caveat in findings.caveats:
        console.print(Text(f"{caveat.mark}: ", "bold yellow") + Text(caveat.text, "yellow"))
    console.print(Text(findings.headline, "bold green"))
    for sentence in findings.misses:
        console.print(Text(sentence, "bold red"))
    # Not wrapped: a path that is cut in two cannot be opened from the terminal.
    console.print(Text(f"report: {shortest(paths['html'])}"), soft_wrap=True)


def _variants(report: Report) -> Table:
    """Return the table of variants; those of a whole backbone stand below a heading of their own."""
    from rich.text import Text

    grid = grid_of("Variant", "Status", "Reward Δ", "p50 ms", "p99 ms", "Speed-up", "MB", left=2)
    own = [row for row in report.rows if not row.whole_backbone]
    whole = [row for row in report.rows if row.whole_backbone]
    for row in own:
        _add(grid, row, row.variant)
    if whole:
        network = whole[0].variant.partition(WHOLE)[2].rstrip(")")
        grid.add_section()
        grid.add_row(Text(f"whole {network}", "bold"), Text("(untrained)"), *[""] * 5)
    for row in whole:
        _add(grid, row, f"  {row.variant.partition(WHOLE)[0]}")
    return grid


def _add(grid: Table, row: Row, name: str) -> None:
    from rich.text import Text

    speedup = "" if row.speedup is None else f"{row.speedup:.2f}x"
    cells = (
        Text("" if row.whole_backbone else row.status, COLORS[row.status]),
        "" if row.reward_delta is None else f"{row.reward_delta:+.2f}",
        "" if row.p50_ms is None else number(row.p50_ms),
        "" if row.p50_ms is None else number(row.p99_ms),
        Text(speedup) + Text("".join(SIGNS[mark] for mark in table.marks(row)), "bold yellow"),
        f"{row.size_bytes / 1e6:.1f}" if row.size_bytes else "",
    )
    grid.add_row(Text(name), *cells)


def _signs(rows: Sequence[Row]) -> str:
    """Explain the signs that occur."""
    marks = {mark for row in rows for mark in table.marks(row)}
    return "  ".join(f"{sign} {mark}" for mark, sign in SIGNS.items() if mark in marks)


def _show_loops(loops: Sequence[LoopFigures], console: Console) -> None:
    """Print a line for each variant's control loop."""
    from rich.text import Text

    console.print(Text(f"control loop at {loops[0].rate_hz:g} Hz, deadline {loops[0].deadline_ms:g} ms", "bold"))
    grid = grid_of("Variant", "Missed", "p50 ms", "Worst", "Jitter", "After idle", "Cores")
    for loop in loops:
        missed = f"{loop.missed:,} of {loop.ticks:,}" if loop.ticks else "not run"
        after_idle = max((idle.worst_ms for idle in loop.after_idle.values()), default=None)
        times = (loop.p50_ms, loop.worst_ms, loop.jitter_ms, after_idle)
        proof = Text(missed, "red" if loop.error else PROOF[loop.verdict])
        grid.add_row(Text(loop.name), proof, *map(number, times), number(loop.idle_cores))
    console.print(grid)
    console.print(Text("Cores: how many are busy between ticks, while the policy waits for its next one."))
    console.print()


def _show_profile(report: Report, console: Console) -> None:
    """Print where the time of one variant goes, if that was asked for."""
    from rich.text import Text

    if report.profile is None:
        return
    columns, rows = alone.layers(report.profile, report.peaks)
    if report.profile.layers:
        grid = grid_of(*columns, left=2)
        for cells in rows:
            grid.add_row(*map(Text, cells))
        console.print(Text(f"where the time of {report.profile.variant} goes", "bold"))
        console.print(grid)
    for sentence in alone.of_profile(report.profile, report.rows):
        console.print(Text(sentence))
    console.print()


def grid_of(*headings: str, left: int = 1) -> Table:
    """Return an empty table that cuts nothing off: only its first column is broken where the window is too narrow.

    Args:
        headings: One a column.
        left: How many columns are aligned to the left.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for index, heading in enumerate(headings):
        grid.add_column(heading, justify="left" if index < left else "right", no_wrap=index > 0, overflow="fold")
    return grid


def number(milliseconds: float | None) -> str:
    """Return a time without its unit, which the heading has."""
    return table.milliseconds(milliseconds).removesuffix(" ms")


def print_reasons(reasons: Iterable[tuple[str, str]], console: Console) -> None:
    """Print each reason once, after the variants that it holds for."""
    from rich.text import Text

    for names, reason in reasons:
        console.print(Text(f"{names}: ", "bold") + Text(reason))


def shortest(path: str) -> str:
    """Return a path as it is, or from the current folder if that is shorter."""
    from_here = os.path.relpath(path, Path.cwd())
    return min(path, from_here, key=len)
