"""The observations that the actions gate looks at: those of the run that the bundle was made from, if it is here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.bundle.reader import Bundle
from export.importers import weights_of
from export.libraries import pytorch
from export.verification.availability import no_reference
from xfer.errors import RunError
from xfer.trajectories import Trajectories


def held_out_observations(bundle: Bundle, run: Path | None = None) -> tuple[Trajectories | None, str]:
    """Return the run's held-out observations, or None and why they cannot be used.

    With them comes what the live policy did, where the bundle has that; else the reference has to act on them.

    Args:
        bundle: The bundle.
        run: The run's folder; by default the one that the bundle was made from, if it is here.

    Raises:
        RunError: If a run was named, and it or its observations are not those that the bundle was made from.
        BundleError: If the file of what the live policy did is missing or changed.
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
    observations = Trajectories(observations.observations, observations.resets)
    known, manifest = bundle.held_out(), bundle.manifest
    if known is None or manifest.held_out is None:
        reason = no_reference(bundle)
        return (observations, "") if reason is None else (None, reason)
    if observations.digest() != manifest.held_out.observations:
        reason = f"the held-out observations at {folder} are not those that the bundle was made with; export again"
        if run is not None:
            raise RunError(f"{reason[0].upper()}{reason[1:]}.")
        return None, reason
    return replace(observations, actions=known.actions, scores=known.scores), ""
