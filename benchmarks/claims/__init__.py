"""Claims: one file each, with the names of the ``Claim`` protocol below. The folder's listing is their list.

A claim repeats a simulation, a check or a measurement that stands behind a figure in README or docs: ``xfer
reproduce NAME``, where NAME is the file's with dashes. Files whose names begin with an underscore are helpers.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import tyro

from xfer.commands import Common
from xfer.errors import check_choice


@dataclass(kw_only=True)
class Args(Common):
    """Repeat one of the simulations and checks that stand behind README's figures; without a name, list them.

    Exits non-zero if the claim does not hold.

    Example commands:
      xfer reproduce
      xfer reproduce verdict-simulation
      xfer reproduce crosscheck runs/cartpole.bundle --threads 2
      xfer reproduce overhead runs/cartpole.bundle --threads 2
      xfer reproduce resnet-speed --output runs/resnet18
      xfer reproduce transfer --output runs/transfer
      xfer reproduce gpu --output runs/gpu
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
    """Folder of the runs and of what is drawn, for those that train. Default: runs/claims/NAME."""

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

    def reproduce(self, args: Args) -> Outcome:
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
