"""The observations that the actions gate looks at: those of the run that the bundle was made from, if it is here."""

from __future__ import annotations

from pathlib import Path

from export.bundle.reader import Bundle
from export.importers import weights_of
from export.libraries import pytorch
from export.verification.availability import no_reference
from xfer.errors import RunError
from xfer.trajectories import Trajectories


def held_out_observations(bundle: Bundle, run: Path | None = None) -> tuple[Trajectories | None, str]:
    """Return the run's held-out observations, or None and why they cannot be used.

    Args:
        bundle: The bundle.
        run: The run's folder; by default the one that the bundle was made from, if it is here.

    Raises:
        RunError: If a run was named, and it is not the one that the bundle was made from.
    """
    folder = run or Path(bundle.manifest.provenance.run)
    weights = weights_of(folder)
    if run is None and weights is None:
        return None, "the run that the bundle was made from is not here (--run says where)"
    if missing := pytorch.available():
        return None, missing
    if weights != bundle.manifest.provenance.weights:
        if run is None:
            return None, f"the run at {folder} has other weights than the bundle"
        raise RunError(f"{folder} is not the run that {bundle.path} was made from. Name that one, or none.")
    from xfer.training.run_folder import RunFolder

    observations = RunFolder(folder).observations("held-out")
    # Golden brings the reference's actions along; these do not, so the reference has to act on them.
    if observations.actions is None and (reason := no_reference(bundle)) is not None:
        return None, reason
    return observations, ""
