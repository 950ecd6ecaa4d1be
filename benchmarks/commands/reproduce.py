"""What `xfer reproduce` does: repeat the simulations and measurements that stand behind a figure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from benchmarks.claims import Args, cell, load, names
from xfer.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from rich.table import Table


MANY = 7
"""Columns that a terminal has room for."""


def main(args: Args) -> dict[str, Any]:
    """Run the command.

    Returns:
        What ``--json`` prints.

    Raises:
        UsageError: On a name or option that does not fit.
        UnavailableError: If a library is missing.
        CheckFailed: If the claim does not hold.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if not args.name:
        listed = [{"name": name, "claim": load(name).CLAIM} for name in names()]
        console.print(grid(listed))
        return {"claims": listed}
    if args.runs < 0:
        raise UsageError(f"--runs {args.runs} is negative. Leave it out for as many as the claim is about.")
    claim = load(args.name)
    start = time.perf_counter()
    with nullcontext() if getattr(claim, "SHOWS_PROGRESS", False) else console.status(args.name):
        found = claim.reproduce(args)
    console.print(Text(claim.CLAIM))
    console.print(grid(found.rows))
    for note in found.notes:
        console.print(Text(note))
    result = {
        "name": args.name,
        "claim": claim.CLAIM,
        "holds": found.holds,
        "rows": list(found.rows),
        "notes": list(found.notes),
        "seconds": round(time.perf_counter() - start, 1),
    }
    if not found.holds:
        failed = sum(not row["holds"] for row in found.rows)
        raise CheckFailed(f"The claim does not hold: {failed} of {len(found.rows)} cases failed.", result)
    console.print(f"The claim holds ({result['seconds']:g} s).")
    return result


def grid(rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows as a table; its columns are their keys, or the rows themselves where the keys are many."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    names = [key.replace("_", " ") for key in (rows[0] if rows else ())]
    lines = [[Text(cell(value)) for value in row.values()] for row in rows]
    if len(names) > MANY:
        lines = [[Text(name, "bold"), *values] for name, *values in zip(names, *lines, strict=True)]
        names = [""] * len(lines[0])
        table.show_header = False
    for name in names:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table
