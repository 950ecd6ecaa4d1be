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
from xfer.trajectories.chunks import unrolled

FLOOR = 0.001
"""Least spread of an element, as a share of that of all elements together."""

JUMP, LEAST_MASK, SAME_MASK, MASKS = 50.0, 1000.0, 1.2, 3
"""Masks are constants: at most so many, each the same within a factor, and so much further from the best score of their
row, at least, than any preference."""

NORMAL = 2.563
"""Width of the middle 80 % of a normal distribution, in standard deviations."""

DENSEST, NORMAL_DENSEST = 0.4, 1.049
"""Share of the rows that a preference's spread is taken from, and how wide that part of a normal distribution is."""

ROUNDING = 1e-6
"""Two scores whose difference varies less, as a share of them, move as one."""

MOST_ROWS, MOST_OTHERS = 2048, 64
"""How many rows, and how many other actions, a preference's spread is taken from."""


def measure_spreads(recorded: Sequence[Trajectories], spec: PolicySpec) -> Spreads:
    """Measure the spreads of recorded scores and, of a continuous action, of the actions.

    Args:
        recorded: What the live policy did, with actions and scores.
        spec: The policy's contract.
    """
    recorded = [unrolled(one, spec) for one in recorded]  # of a chunk each action, in one unit for all
    scores = np.concatenate([one.scores for one in recorded if one.scores is not None]).astype(float)
    if spec.action.kind == "discrete":
        reach = find_reach(scores)
        return Spreads(_of_preferences(np.where(masked(scores, reach), np.nan, scores)), (), reach)
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


def _of_preferences(scores: np.ndarray) -> tuple[float, ...]:
    """Return the unit of each action's score: how much its difference from the action most like it varies.

    A choice is made by differences, so an action whose score runs wide (a mask of no fixed value, a crash) says nothing
    of how finely two others are told apart. The densest 40 % of the rows count, so that neither rare large states nor
    scores of two modes widen it.

    Args:
        scores: float [T, A], NaN where masked.
    """
    scores = scores[:: max(1, -(-len(scores) // MOST_ROWS))]
    count = scores.shape[1]
    fallback = np.array(_of_scores(centered(scores, np.isnan(scores))))
    spread = np.full(count, np.inf)
    for element in range(count):
        for other in range(0, count, max(1, count // MOST_OTHERS)):
            both = ~np.isnan(scores[:, element]) & ~np.isnan(scores[:, other])
            if other == element or not both.any():
                continue
            pair = scores[both][:, [element, other]]
            width = _densest(pair[:, 0] - pair[:, 1])
            if width > ROUNDING * float(np.median(np.abs(pair))):
                spread[element] = min(spread[element], width)
    return tuple(np.where(np.isfinite(spread), spread, fallback).tolist())


def _densest(values: np.ndarray) -> float:
    """Return the width of the densest part of values, as that of a normal distribution with this part would be."""
    values = np.sort(values)
    inside = int(np.ceil(DENSEST * len(values)))
    if inside < 2:
        return 0.0
    return float((values[inside - 1 :] - values[: len(values) - inside + 1]).min() / NORMAL_DENSEST)


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
