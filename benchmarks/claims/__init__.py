"""Claims: one file each, with the names of the ``Claim`` protocol below. The folder's listing is their list.

A claim repeats a simulation, a check or a measurement that stands behind a figure in README or docs: ``xfer
reproduce NAME``, where NAME is the file's with dashes. Files whose names begin with an underscore are helpers.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from xfer.errors import check_choice


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a claim is given; each takes what it needs.

    Attributes:
        name: The claim's name.
        bundle: The bundle, for those that measure one.
        runs: Simulated runs, or rounds of a measurement; 0: as many as the claim is about.
        threads: Threads of what is measured; 0: as many as there are usable cores.
        seed: Seed of what is simulated, or trained.
        output: Folder of what is trained and drawn; None: runs/claims/NAME.
    """

    name: str = ""
    bundle: Path | None = None
    runs: int = 0
    threads: int = 0
    seed: int = 0
    output: Path | None = None

    @property
    def folder(self) -> Path:
        """Where those that train keep their runs; an interrupted one goes on there."""
        return self.output or Path("runs", "claims", self.name)


@dataclass(frozen=True)
class Outcome:
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


class Claim(Protocol):
    """The names that a claim's module defines, and ``SHOWS_PROGRESS = True`` if it does so."""

    CLAIM: str

    def reproduce(self, options: Options) -> Outcome:
        """Do the work.

        Raises:
            UsageError: If an option that it needs is missing.
            UnavailableError: If this machine lacks what it needs.
        """


def names() -> list[str]:
    """Return the names of all claims."""
    return sorted(
        module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    )


def load(name: str) -> Claim:
    """Return a claim's module.

    Raises:
        UsageError: If there is none, with the closest name.
    """
    check_choice("claim", name, names())
    return cast(Claim, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def cell(value: object) -> str:
    """Return a value of a row as text."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, tuple):
        return f"[{', '.join(cell(part) for part in value)}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
