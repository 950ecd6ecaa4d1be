"""Figures out of raw samples: percentiles, their bounds, stability, speed-ups. Nothing here measures.

Samples are durations of single calls in seconds. Calls of one turn are seldom independent: what slows one slows its
neighbors. So the bounds take turns, which lie apart in time, as the independent units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from export.verification.non_inferiority import MAX_STAKE, log_wealth

MIN_SAMPLES = {0.5: 1, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}
"""Fewest samples for which a percentile is given at all (MLPerf Inference's formula)."""

CONFIDENCE = 0.99
WINDOWS = 5
TOLERANCE = 0.05
"""How far the medians of the stretches of a stable run may lie apart."""

THRESHOLDS = 256
"""Among how many samples above a percentile its bound is looked for; between them it is rounded up."""


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return the smallest sample that at least ``share`` of all samples do not exceed.

    It is always a sample that occurred, never a value between two. None below the share's sample floor.
    """
    if len(samples) < _floor(share):
        return None
    return float(np.quantile(np.asarray(samples), share, method="inverted_cdf"))


def upper_bound(turns: Sequence[Sequence[float]], share: float, confidence: float = CONFIDENCE) -> float | None:
    """Return a one-sided confidence bound above a percentile, whatever the distribution within and between turns.

    The percentile is the smallest time that the mean share of a turn's calls above it is at most ``1 - share``. The
    reward gate's betting bound (``export/verification/non_inferiority.py``) refutes a time at which that mean share is
    ``1 - share`` or more. The bound is the smallest sample that is refuted with all samples above it: for a bound below
    the percentile, the times just under the percentile would have to be refuted, which happens once in a hundred.

    Args:
        turns: The samples of each turn, in the order of the turns; a turn has at least one.
        share: Of the percentile, as 0.99.
        confidence: How often, at least, the bound is not below it.

    Returns:
        A sample, or None below the sample floor, or where even no call above it would refute it: with fewer than
        ``fewest_turns``.
    """
    samples = np.concatenate([np.asarray(turn, float) for turn in turns]) if len(turns) else np.empty(0)
    if len(samples) < _floor(share):
        return None
    owners = np.repeat(np.arange(len(turns)), [len(turn) for turn in turns])
    order = np.argsort(samples)
    samples, owners = samples[order], owners[order]
    lowest = math.ceil(share * len(samples)) - 1
    ranks = np.unique(np.linspace(lowest, len(samples) - 1, THRESHOLDS).round().astype(int))[::-1]
    found = None
    for some in np.array_split(ranks, math.ceil(len(ranks) / 32)):  # from above; most bounds lie near the top
        kept = _refuted(samples, owners, samples[some], 1 - share, confidence)
        whole = len(some) if kept.all() else int(kept.argmin())
        if whole:
            found = float(samples[some[whole - 1]])
        if whole < len(some):
            break
    return found


def fewest_turns(share: float, confidence: float = CONFIDENCE) -> int:
    """Return the fewest turns that can give a percentile a bound: so many without a call above it refute the claim.

    Each of them multiplies the stake alike (``log_wealth`` of nothing but zeros).

    Example:
        >>> [fewest_turns(share) for share in (0.5, 0.9, 0.95, 0.99, 0.999)]
        [7, 46, 95, 483, 4846]
    """
    return math.ceil(math.log(1 / (1 - confidence)) / math.log1p(MAX_STAKE * (1 - share) / share))


def _refuted(samples: np.ndarray, owners: np.ndarray, times: np.ndarray, mean: float, confidence: float) -> np.ndarray:
    """Return for each time whether a mean share of calls above it of ``mean`` or more is refuted: bool [times].

    Args:
        samples: float [n], ascending.
        owners: int [n], which turn each is of.
        times: float [times], descending.
        mean: The claim.
        confidence: Of the refutation.
    """
    first = int(np.searchsorted(samples, times[-1], side="right"))
    above, turns = samples[first:], int(owners.max()) + 1
    # A call counts from the first time on that it exceeds.
    exceeds = len(times) - np.searchsorted(times[::-1], above, side="left")
    counts = np.bincount(exceeds * turns + owners[first:], minlength=len(times) * turns).reshape(-1, turns)
    stakes = log_wealth(np.cumsum(counts, axis=0) / np.bincount(owners), mean)
    refuted: np.ndarray = stakes.max(axis=1) >= math.log(1 / (1 - confidence))
    return refuted


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
    is the baseline's drift; the baseline itself is judged by that.
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


def settled(medians: Sequence[float], last: int = 3) -> bool:
    """Whether warm-up may end: the medians of the last windows lie within 5 % of one another.

    Not their means, which a single slow call moves: on a shared machine they would hardly ever settle.
    """
    return len(medians) >= last and _spread(medians[-last:]) <= TOLERANCE


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / float(np.median(values))


def speedups(baseline: Sequence[Sequence[float]], rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return, for each round, the baseline's median divided by the variant's in that same round.

    Whatever slows a whole round down (another process, heat) slows both, and leaves the ratio alone.

    Raises:
        ValueError: If the two did not run the same rounds.
    """
    return [float(np.median(a) / np.median(b)) for a, b in zip(baseline, rounds, strict=True)]
