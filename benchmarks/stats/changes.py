"""Whether a variant became faster or slower between two benches: what ``xfer compare`` says, without its reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.stats.permutation import RESAMPLES, simultaneous
from benchmarks.stats.starts import log_ratios

TOLERANCE = 0.02
"""Smallest change that matters, as a share of the time, unless another one is asked for."""

Against = Literal["eager", "kernel"]

Times = dict[str, list[np.ndarray]]
"""Logarithms of medians by row, start and round."""


@dataclass(frozen=True)
class Estimate:
    """How much the time of one variant changed.

    Attributes:
        change: As a share: 0.1 is 10 % slower.
        interval: Its bounds; those of all variants hold together with confidence 1 - alpha.
        p_value: Share of the dealings of starts in which any variant seems to change as much as this one.
        against: What ran in the same rounds and is the measure: ``eager``, which stands for the reference, whichever it
            is; or ``kernel``, where that changed itself.
    """

    change: float
    interval: tuple[float, float]
    p_value: float
    against: Against


def estimate(
    old: Times,
    new: Times,
    names: Sequence[str],
    measure: str,
    against: Against,
    alpha: float,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Estimate how much the time of each variant changed against what ran in the same rounds.

    Args:
        old: Logarithms of medians by row, start and round.
        new: Likewise.
        names: The variants in question.
        measure: The row that they are measured by.
        against: What to call that.
        alpha: Error rate of all of them together.
        resamples: How often starts are dealt anew.

    Raises:
        UsageError: If there are too few starts to tell anything at ``alpha``.
    """
    if not names:
        return {}
    ratios = [[log_ratios(times[name], times[measure]) for name in names] for times in (old, new)]
    before, after = (np.array([one[: min(map(len, side))] for one in side]) for side in ratios)
    found = {}
    for name, middle, half, p_value in zip(names, *simultaneous(before, after, alpha, resamples), strict=True):
        interval = math.expm1(middle - half), math.expm1(middle + half)
        found[name] = Estimate(math.expm1(middle), interval, float(p_value), against)
    return found


def verdict_on(estimate: Estimate, tolerance: float) -> str:
    """Name a change by where its whole interval lies; 1 / (1 + tolerance) is as far from 1 as 1 + tolerance."""
    low, high = estimate.interval
    if low > tolerance:
        return "slower"
    return "faster" if high < 1 / (1 + tolerance) - 1 else "no difference"
