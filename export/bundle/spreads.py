"""How widely what a policy gives varies, element by element: the units in which differences are judged.

They are robust: what a few rows or entries hold cannot stretch them. Masks (``-1e8`` where an action is not allowed)
are found by the gap that they leave, and do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.bundle.manifest import Spreads
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

FLOOR = 0.001
"""Least spread of an element, as a share of that of all elements together."""

JUMP, LEAST_MASK, SAME_MASK, MASKS = 50.0, 1000.0, 1.2, 3
"""Masks are constants: at most so many, each the same within a factor, and so much further from the best score of their
row, at least, than any preference."""

NORMAL = 2.563
"""Width of the middle 80 % of a normal distribution, in standard deviations."""


def measure_spreads(recorded: Sequence[Trajectories], spec: PolicySpec) -> Spreads:
    """Measure the spreads of recorded scores and, of a continuous action, of the actions.

    Args:
        recorded: What the live policy did, with actions and scores.
        spec: The policy's contract.
    """
    scores = np.concatenate([one.scores for one in recorded if one.scores is not None]).astype(float)
    if spec.action.kind == "discrete":
        reach = find_reach(scores)
        return Spreads(_of_scores(centered(scores, masked(scores, reach))), (), reach)
    actions = np.concatenate([one.actions for one in recorded if one.actions is not None]).astype(float)
    return Spreads(_of_scores(scores), _of_actions(actions))


def find_reach(scores: np.ndarray) -> float | None:
    """Return how far below a row's best score a preference may lie, or None if no entry is masked.

    Masks are found by the gap that they leave, whatever their value: ``-1e8``, ``finfo.min``, 10,000 less than a score.

    Args:
        scores: float [T, A].

    Returns:
        The geometric mean of the largest distance of a preference and the smallest one of a mask.
    """
    distances = scores.max(axis=1, keepdims=True).astype(float) - scores
    distances = np.sort(distances[distances > 0])
    for jump in np.flatnonzero(distances[1:] >= JUMP * distances[:-1]):
        beyond = distances[jump + 1 :]
        groups = np.split(beyond, np.flatnonzero(beyond[1:] > SAME_MASK * beyond[:-1]) + 1)
        if beyond[0] >= LEAST_MASK and len(groups) <= MASKS and all(g[-1] <= SAME_MASK * g[0] for g in groups):
            return float(np.sqrt(distances[jump]) * np.sqrt(beyond[0]))
    return None


def masked(scores: np.ndarray, reach: float | None) -> np.ndarray:
    """Return which scores are masks: bool [T, A]. The best of a row never is."""
    if reach is None:
        return np.zeros(scores.shape, bool)
    result: np.ndarray = scores.max(axis=1, keepdims=True).astype(float) - scores > reach
    return result


def centered(scores: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Return scores without what all actions have in common, which cannot change a choice; NaN where masked.

    Args:
        scores: float [T, A].
        without: Which of them are masked, bool [T, A].
    """
    kept = np.where(without, np.nan, scores.astype(float))
    result: np.ndarray = kept - np.nanmean(kept, axis=1, keepdims=True)
    return result


def _of_scores(values: np.ndarray) -> tuple[float, ...]:
    """Return the spread of each column: as wide as a normal distribution with its middle 80 % would be."""
    spread = np.zeros(values.shape[1])
    seen = ~np.isnan(values).all(axis=0)
    low, high = np.nanquantile(values[:, seen], (0.1, 0.9), axis=0)
    spread[seen] = (high - low) / NORMAL
    together = np.nanquantile(values, 0.9) - np.nanquantile(values, 0.1)
    return tuple(np.maximum(spread, FLOOR * together / NORMAL).tolist())


def _of_actions(values: np.ndarray) -> tuple[float, ...]:
    """Return the standard deviation of each column, its outermost hundredths cut off.

    Not by the middle, as for scores: a gripper that seldom closes does move.
    """
    return tuple(np.clip(values, *np.quantile(values, (0.01, 0.99), axis=0)).std(axis=0).tolist())
