"""Where policies come from: one file a kind of source. Each gives a ``Source``, which is what a bundle is made of.

run.py           a folder that `xfer train` wrote
module.py        somebody's own nn.Module: `xfer export module:function`
sb3.py           a file that Stable-Baselines3 saved: `xfer export model.zip --from sb3`
observations.py  what a policy met, for those that come without a run folder
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from xfer.files import from_json, sha256
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from xfer.models.policy import Exportable

GOLDEN_STRETCHES, GOLDEN_FRAMES = 3, 21
"""Golden trajectories: so many beginnings of episodes, of so many frames each (64 frames at most)."""


FACTS = "source.json"


@dataclass(frozen=True)
class Facts:
    """``source.json``: whose policy it is that a folder keeps observations of, where that was trained elsewhere.

    Attributes:
        source: What it was loaded from.
        weights: Its digest, as in the bundle's provenance.
        spec: Its contract, with the reward scale if there is one.
    """

    source: str
    weights: str
    spec: PolicySpec


def read_facts(folder: Path) -> Facts | None:
    """Return whose observations ``folder`` keeps, or None if it is no such folder."""
    try:
        return from_json((folder / FACTS).read_bytes(), Facts)
    except (OSError, msgspec.DecodeError):
        return None


def weights_of(folder: Path) -> str | None:
    """Return the digest of the policy whose observations are in a folder, or None if it keeps none."""
    trained = folder / "policy.safetensors"
    if trained.is_file():
        return sha256(trained)
    facts = read_facts(folder)
    return None if facts is None else facts.weights


@dataclass(frozen=True)
class Source:
    """A policy, and what it met.

    Observations are read when they are first asked for: frames of a thousand steps take a second, which an export that
    finds everything unchanged need not spend.

    Attributes:
        policy: The policy, in eval mode.
        folder: Where its observations are kept, apart from the bundle: a run folder, or one that looks like it.

    Raises:
        RunError: By the properties, if their file is missing or damaged.
    """

    policy: Exportable
    folder: Path

    @cached_property
    def calibration(self) -> Trajectories:
        """Observations it met, for int8."""
        return self._met("calibration")

    @cached_property
    def held_out(self) -> Trajectories:
        """Others, from other episodes, that judge."""
        return self._met("held-out")

    def _met(self, name: str) -> Trajectories:
        from xfer.training.run_folder import RunFolder  # which needs torch

        return RunFolder(self.folder).observations(name)

    def golden(self) -> Trajectories:
        """Return the beginnings of a few held-out episodes: several steps and a reset, 64 frames at most."""
        parts = [slice(e.start, min(e.stop, e.start + GOLDEN_FRAMES)) for e in self.held_out.episodes()]
        return self.held_out.take(parts[:GOLDEN_STRETCHES])
