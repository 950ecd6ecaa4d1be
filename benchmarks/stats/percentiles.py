"""Figures out of raw samples: percentiles, their bounds, stability, speed-ups. Nothing here measures.

Samples are durations of single calls in seconds. The bounds take them as independent; a machine that throttles or is
shared makes neighbors alike, which is what ``drift`` tells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

MIN_SAMPLES = {0.5: 1, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}
"""Fewest samples for which a percentile is given at all (MLPerf Inference's formula)."""

CONFIDENCE = 0.99
WINDOWS = 5
TOLERANCE = 0.05
"""How far the medians of the stretches of a stable run may lie apart."""


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return the smallest sample that at least ``share`` of all samples do not exceed.

    It is always a sample that occurred, never a value between two. None below the share's sample floor.
    """
    if len(samples) < _floor(share):
        return None
    return float(np.quantile(np.asarray(samples), share, method="inverted_cdf"))


def upper_bound(samples: Sequence[float], share: float, confidence: float = CONFIDENCE) -> float | None:
    """Return a one-sided confidence bound above a percentile, whatever the distribution.

    Of n samples, Binomial(n, share) lie below the true percentile, so the k-th smallest sample is above it
    with probability P(Binomial(n, share) <= k - 1) (David & Nagaraja, Order Statistics, section 7.1).

    Returns:
        The smallest such sample, or None below the floor or where even the largest sample is no bound.
    """
    from scipy.stats import binom

    count = len(samples)
    if count < _floor(share):
        return None
    rank = int(binom.ppf(confidence, count, share)) + 1
    return float(np.sort(np.asarray(samples))[rank - 1]) if rank <= count else None


def _floor(share: float) -> int:
    """The sample floor of a percentile; one between two listed ones takes the higher of the two."""
    return next((floor for listed, floor in MIN_SAMPLES.items() if share <= listed), max(MIN_SAMPLES.values()))


def drift(rounds: Sequence[Sequence[float]]) -> float:
    """Return how far the medians of five stretches of a run lie apart, as a share; infinity with fewer rounds."""
    if len(rounds) < WINDOWS or not all(rounds):
        return math.inf
    return _spread([float(np.median(window)) for window in windows(rounds)])


def is_stable(rounds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]] | None = None) -> bool:
    """Whether five stretches of a run say the same of a variant, within 5 %; fewer than five rounds are no proof.

    Its speed-up, where there is a baseline: a machine that changes its speed changes both. What that does to the times
    is the baseline's drift, and the report says it once.
    """
    figures = [[ratio] for ratio in speedups(baseline, rounds)] if baseline else rounds
    return drift(figures) <= TOLERANCE


def windows(rounds: Sequence[Sequence[float]]) -> list[list[float]]:
    """Pool consecutive rounds into five windows of as many rounds each, or nearly; fewer rounds stay as they are.

    Rounds are interleaved, so a window covers the same stretch of time for every variant.
    """
    count = min(WINDOWS, len(rounds))
    edges = [len(rounds) * index // count for index in range(count + 1)] if count else []
    return [list(itertools.chain.from_iterable(rounds[a:b])) for a, b in itertools.pairwise(edges)]


def settled(means: Sequence[float], last: int = 3) -> bool:
    """Whether warm-up may end: the means of the last windows lie within 5 % of one another."""
    return len(means) >= last and _spread(means[-last:]) <= TOLERANCE


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / float(np.median(values))


def speedups(baseline: Sequence[Sequence[float]], rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return, for each round, the baseline's median divided by the variant's in that same round.

    Whatever slows a whole round down (another process, heat) slows both, and leaves the ratio alone.

    Raises:
        ValueError: If the two did not run the same rounds.
    """
    return [float(np.median(a) / np.median(b)) for a, b in zip(baseline, rounds, strict=True)]
