"""How far apart what a policy gives lies, element by element: the unit in which differences are judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.bundle.manifest import Spreads
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

FLOOR = 0.001
"""Least spread of an element, as a share of that of all elements together."""


def measure_spreads(recorded: Sequence[Trajectories], spec: PolicySpec) -> Spreads:
    """Measure the spreads of recorded scores and, of a continuous action, of the actions.

    Args:
        recorded: What the live policy did, with actions and scores.
        spec: The policy's contract.
    """
    scores = np.concatenate([one.scores for one in recorded if one.scores is not None]).astype(np.float64)
    if spec.score_kind != "mean":
        scores -= scores.mean(axis=1, keepdims=True)
    if spec.action.kind == "discrete":
        return Spreads(_robust(scores))
    actions = np.concatenate([one.actions for one in recorded if one.actions is not None])
    return Spreads(_robust(scores), _robust(actions.astype(np.float64)))


def _robust(values: np.ndarray) -> tuple[float, ...]:
    """Return the spread of each column: as wide as a normal distribution with its middle 80 % would be."""
    low, high = np.quantile(values, (0.1, 0.9), axis=0)
    spread = (high - low) / 2.563
    return tuple(np.maximum(spread, FLOOR * float(np.median(spread))).tolist())
