"""What `xfer evidence` does: repeat the simulations and checks that stand behind README's figures.

An evidence is a module in ``benchmarks/evidences/`` with the names of the ``Source`` protocol below. Its name is the
file's, with dashes. A new one is one file in that folder; the command's list follows from the folder's listing.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import tyro

from benchmarks import evidences
from xfer.commands import Common
from xfer.errors import CheckFailed, UsageError, check_choice

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(kw_only=True)
class Args(Common):
    """Repeat one of the simulations and checks that stand behind README's figures; without a name, list them.

    Exits non-zero if the claim does not hold.

    Example commands:
      xfer evidence
      xfer evidence verdict-simulation
      xfer evidence crosscheck runs/cartpole.bundle --threads 2
      xfer evidence overhead runs/cartpole.bundle --threads 2
      xfer evidence resnet-speed --output runs/resnet18
      xfer evidence transfer --output runs/transfer
      xfer evidence gpu --output runs/gpu
    """

    name: tyro.conf.Positional[str] = ""
    """Which one."""
    bundle: tyro.conf.Positional[Path | None] = None
    """The bundle, for those that measure."""
    runs: int = 0
    """Simulated runs, or rounds of a measurement. 0: as many as the claim is about."""
    threads: int = 0
    """Threads of what is measured. 0: as many as there are usable cores."""
    seed: int = 0
    """Seed of what is simulated, or trained."""
    output: Path | None = None
    """Folder of the runs and of what is drawn, for those that train. Default: runs/evidence/NAME."""

    @property
    def folder(self) -> Path:
        """Where those that train keep their runs; an interrupted one goes on there."""
        return self.output or Path("runs", "evidence", self.name)


MANY = 7
"""Columns that a terminal has room for."""


@dataclass(frozen=True)
class Evidence:
    """What was found.

    Attributes:
        rows: One mapping a case, all with the same keys; ``holds`` says whether the claim holds for it.
        notes: What else a reader should know, as what was left out and why.
    """

    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the claim holds in every case."""
        return all(row["holds"] for row in self.rows)


class Source(Protocol):
    """The names that a module in ``benchmarks/evidences/`` defines, and ``SHOWS_PROGRESS = True`` if it does so."""

    CLAIM: str

    def collect(self, args: Args) -> Evidence:
        """Do the work.

        Raises:
            UsageError: If an option that it needs is missing.
            UnavailableError: If this machine lacks what it needs.
        """


def names() -> list[str]:
    """Return the names of all evidences."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(evidences.__path__))


def load(name: str) -> Source:
    """Return an evidence's module.

    Raises:
        UsageError: If there is none, with the closest name.
    """
    check_choice("evidence", name, names())
    return cast(Source, importlib.import_module(f"{evidences.__name__}.{name.replace('-', '_')}"))


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
        return {"evidence": listed}
    if args.runs < 0:
        raise UsageError(f"--runs {args.runs} is negative. Leave it out for as many as the claim is about.")
    source = load(args.name)
    start = time.perf_counter()
    with nullcontext() if getattr(source, "SHOWS_PROGRESS", False) else console.status(args.name):
        found = source.collect(args)
    console.print(Text(source.CLAIM))
    console.print(grid(found.rows))
    for note in found.notes:
        console.print(Text(note))
    result = {
        "name": args.name,
        "claim": source.CLAIM,
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


def cell(value: object) -> str:
    """Return a value of a row as text."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, tuple):
        return f"[{', '.join(cell(part) for part in value)}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
