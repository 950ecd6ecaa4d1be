"""A folder that `xfer train` wrote."""

from __future__ import annotations

from pathlib import Path

from export.importers import Source
from xfer.training.run_folder import RunFolder


def load(path: Path) -> Source:
    """Return the trained policy and what it met.

    Raises:
        RunError: If there is no run here, or it is not finished.
        WeightsError: If its files are damaged.
    """
    return Source(RunFolder(path).policy(), path)
