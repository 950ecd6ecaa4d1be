"""What the starts of a bench say: where a process lies in memory moves all its times, so a start is one observation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

CONFIDENCE = 0.95
"""Of all answers to one question together."""

MIN_STARTS = 6
"""With five there are 32 ways to deal two variants' starts, and in 2 of them the larger times are all on one side."""

RESAMPLES = 4999
"""How often starts are dealt anew; where there are fewer ways, each is tried once."""


def log_medians(starts: Sequence[Sequence[Sequence[float]]]) -> list[np.ndarray]:
    """Return the logarithm of the median of each round, start by start: float [rounds of the start] each."""
    return [np.log([np.median(window) for window in rounds]) for rounds in starts]


def log_ratios(times: Sequence[np.ndarray], baseline: Sequence[np.ndarray]) -> np.ndarray:
    """Return one logarithm of a ratio a start: the mean, over rounds that both had, of the difference.

    Args:
        times: Logarithms of medians, as ``log_medians`` gives them.
        baseline: Likewise, of what took its turns in the same rounds. An interrupted bench ended in the middle of a
            round, or of the starts: what only one of them has is left out.

    Returns:
        float [starts].
    """
    pairs = [(a, b, min(len(a), len(b))) for a, b in zip(times, baseline, strict=False)]
    return np.array([float(np.mean(a[:whole] - b[:whole])) for a, b, whole in pairs if whole])


def shown_longer(times: Sequence[Sequence[float]], than: Sequence[float]) -> list[bool]:
    """Return which variants take longer than another, beyond what starting all of them anew changes.

    A permutation test. The variants of one bench share what happens to the machine during a start, and have nothing
    else in common: were they equal, their times could be dealt to them anew within each start. The largest studentized
    difference between any two counts, since one of them was singled out for being fast; so all answers together are
    wrong in 5 % of benches (see ``permutation.py``).

    Args:
        times: For each variant the time of each start, in any unit, in the order of the starts.
        than: Those of the other, likewise. What only some of them have is left out.
    """
    from scipy.stats import permutation_test

    count = min(map(len, [*times, than]))
    if not times or count < MIN_STARTS:
        return [False] * len(times)
    logs = np.log([than[:count], *(one[:count] for one in times)])
    test = permutation_test(
        tuple(logs),
        _largest,
        permutation_type="samples",
        vectorized=True,
        axis=-1,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    critical = np.quantile(test.null_distribution, CONFIDENCE, method="inverted_cdf")
    return [bool(_studentized(one, logs[0], -1) > critical + 1e-9) for one in logs[1:]]


def _largest(*logs: np.ndarray, axis: int) -> np.ndarray:
    """Return the largest studentized difference between any two variants."""
    largest: np.ndarray = np.max([np.abs(_studentized(a, b, axis)) for a, b in combinations(logs, 2)], axis=0)
    return largest


def _studentized(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    difference = a - b
    error = difference.std(axis=axis, ddof=1) / math.sqrt(difference.shape[axis])
    studentized: np.ndarray = difference.mean(axis=axis) / np.maximum(error, 1e-9)  # equal times differ by nothing
    return studentized
