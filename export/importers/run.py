"""A folder that `xfer train` wrote."""

from __future__ import annotations

from pathlib import Path

from export.importers import ImportedPolicy
from xfer.training.run_folder import RunFolder


def load(path: Path) -> ImportedPolicy:
    """Return the trained policy with its recorded observations.

    Raises:
        RunError: If there is no run here, or it is not finished.
        WeightsError: If its files are damaged.
    """
    run = RunFolder(path)
    return ImportedPolicy(run.policy(), path, max_episode_steps=run.config().max_episode_steps)
