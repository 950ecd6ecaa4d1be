"""What `xfer reproduce` does: repeat the simulations and measurements that stand behind a figure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from benchmarks.claims import Options, cell, load, names
from xfer.commands import Common
from xfer.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from rich.table import Table


MAX_COLUMNS = 7
"""What a terminal has room for."""


@dataclass(kw_only=True)
class Args(Common):
    """Repeat one of the simulations and checks that stand behind README's figures; without a name, list them.

    Exits non-zero if the claim does not hold.

    Example commands:
      xfer reproduce
      xfer reproduce verifier
      xfer reproduce verdict-simulation
      xfer reproduce crosscheck runs/cartpole.bundle --threads 2
      xfer reproduce overhead runs/cartpole.bundle --threads 2
      xfer reproduce interference runs/cartpole.bundle
      xfer reproduce resnet-speed --output runs/resnet18
      xfer reproduce transfer --output runs/transfer
      xfer reproduce gpu --output runs/gpu
    """

    name: tyro.conf.Positional[str] = ""
    """Which one."""
    bundle: tyro.conf.Positional[Path | None] = None
    """The bundle, for those that measure one."""
    runs: int = 0
    """Simulated runs, or rounds of a measurement. 0: as many as the claim is about."""
    threads: int = 0
    """Threads of what is measured. 0: as many as there are usable cores."""
    seed: int = 0
    """Seed of what is simulated, or trained."""
    output: Path | None = None
    """Folder of the runs and of what is drawn, for those that train. Default: runs/claims/NAME."""


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
        found = claim.reproduce(
            Options(
                name=args.name,
                bundle=args.bundle,
                runs=args.runs,
                threads=args.threads,
                seed=args.seed,
                output=args.output,
            )
        )
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
    if len(names) > MAX_COLUMNS:
        lines = [[Text(name, "bold"), *values] for name, *values in zip(names, *lines, strict=True)]
        names = [""] * len(lines[0])
        table.show_header = False
    for name in names:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table
