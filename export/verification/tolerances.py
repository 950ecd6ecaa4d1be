"""How far a variant may be from the reference, score by score and action by action.

Each element is judged in its own unit, the spread that the live policy gave it (``export/bundle/spreads.py``), so that
neither one huge score nor one wide joint makes room for errors in another. Masks are not measured, but must be masks in
the variant as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.bundle.manifest import Spreads
from export.bundle.spreads import masked
from xfer.spec import ActionSpec, PolicySpec

SCORE_TOLERANCE = {"fp32": 0.001, "tf32": 0.01, "fp16": 0.02, "bf16": 0.12}
"""Largest difference of a score, as a share of its element's spread. int8 is reported, not judged. What bf16 rounds off
shows in its actions too, which the next gate judges."""

ARITHMETIC = {"fp32": 1e-5, "tf32": 1e-3, "fp16": 2e-3, "bf16": 1e-2}
"""What the arithmetic may add, as a share of the distance itself: rare ones can be a thousand times the spread."""

ROUNDING = {"fp32": 6e-6, "tf32": 8e-3, "fp16": 8e-3, "bf16": 6e-2}
"""What rounding may add besides, as a share of the larger of the two scores that were subtracted."""

LEAST_RANGE = 0.001
"""Least scale of a continuous action's element, as a share of its range, or of the widest element where it has none."""


@dataclass(frozen=True)
class ScoreComparison:
    """Scores of a variant beside the reference's.

    Attributes:
        difference: How far a score's distance from that of the reference's best action is off, which alone can change
            a choice; of a continuous action the score itself. float [T, A]; 0 where the reference masks.
        allowed: What that may be, float [T, A]; infinite where it is not judged, as for int8.
        unmasked: Where the reference masks and the variant does not, or the other way round: bool [T, A].
    """

    difference: np.ndarray
    allowed: np.ndarray
    unmasked: np.ndarray

    def worst(self) -> tuple[int, int]:
        """Return row and element of the difference that uses up most of its tolerance, or is largest if none is."""
        share = self.difference / self.allowed if np.isfinite(self.allowed).all() else self.difference
        row, element = np.unravel_index(int(share.argmax()), share.shape)
        return int(row), int(element)


def compare_scores(
    wanted: np.ndarray, found: np.ndarray, spec: PolicySpec, spreads: Spreads, precision: str
) -> ScoreComparison:
    """Compare scores, float [T, A].

    Args:
        wanted: The reference's.
        found: The variant's.
        spec: Says whether they are preferences for actions, or a continuous action's mean.
        spreads: The spread of each element.
        precision: The variant's.
    """
    mask = masked(wanted, spreads.reach)
    # Half of the way is near enough to a mask, and far enough from a preference.
    kept = masked(found, None if spreads.reach is None else spreads.reach / 2)
    lost = masked(found, None if spreads.reach is None else spreads.reach * 2)
    rows, best = np.arange(len(wanted)), wanted.argmax(axis=1)
    before, after = wanted.astype(float), found.astype(float)
    largest = np.abs(before)
    if spec.action.kind == "discrete":
        largest = np.maximum(largest, largest[rows, best, None])
        before, after = before - before[rows, best, None], after - after[rows, best, None]
    difference = np.where(mask, 0.0, np.abs(after - before))
    share = SCORE_TOLERANCE.get(precision)
    if share is None:
        allowed = np.full(difference.shape, np.inf)
    else:
        allowed = share * np.array(spreads.scores) + ARITHMETIC[precision] * np.abs(before)
        allowed = allowed + ROUNDING[precision] * largest + np.finfo(np.float32).tiny
    return ScoreComparison(difference, allowed, (mask & ~kept) | (~mask & lost))


def ties(scores: np.ndarray, chosen: np.ndarray, compared: ScoreComparison) -> np.ndarray:
    """Return where a choice is the reference's, or as good within what its scores may be off: bool [T].

    Args:
        scores: The reference's, float [T, A].
        chosen: The variant's actions, int [T].
        compared: Says what scores may be off; where that is not judged, only equal scores are a tie.
    """
    rows, best = np.arange(len(chosen)), scores.argmax(axis=1)
    gap = scores[rows, best].astype(float) - scores[rows, chosen]
    allowed = compared.allowed[rows, chosen]
    result: np.ndarray = gap <= np.where(np.isfinite(allowed), allowed, 0.0)
    return result


def regret(scores: np.ndarray, chosen: np.ndarray, spec: PolicySpec, spreads: Spreads) -> np.ndarray:
    """Return how much less the reference likes each chosen action than its own: float [T]. A tie costs nothing.

    In softmax probabilities where scores are logits, else in the smaller spread of the two actions.

    Args:
        scores: The reference's, float [T, A].
        chosen: The variant's actions, int [T].
        spec: Says what scores are.
        spreads: The spread of each element.
    """
    rows, best, scores = np.arange(len(chosen)), scores.argmax(axis=1), scores.astype(float)
    unit = np.maximum(spreads.scores, np.finfo(np.float32).tiny)
    if spec.score_kind == "logits":
        preference = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores, unit = preference / preference.sum(axis=1, keepdims=True), np.ones_like(unit)
    result: np.ndarray = (scores[rows, best] - scores[rows, chosen]) / np.minimum(unit[best], unit[chosen])
    return result


def action_scale(action: ActionSpec, spreads: Spreads) -> np.ndarray:
    """Return the unit in which each element of a continuous action is judged: float [A].

    That is the reference's spread, but no more than the range and no less than a thousandth of it. Without a range it
    is the spread, and at least a thousandth of the widest one.
    """
    spread = np.array(spreads.actions)
    if action.low:
        span = np.array(action.high) - np.array(action.low)
        scale = np.maximum(np.minimum(span, spread), LEAST_RANGE * span)
    else:
        scale = np.maximum(spread, LEAST_RANGE * spread.max())
    result: np.ndarray = np.maximum(scale, np.finfo(np.float32).eps)
    return result


def action_difference(reference: np.ndarray, variant: np.ndarray, action: ActionSpec, spreads: Spreads) -> np.ndarray:
    """Return how far continuous actions [T, A] lie apart, each element as a share of its scale: float [T, A]."""
    result: np.ndarray = np.abs(variant.astype(float) - reference) / action_scale(action, spreads)
    return result
