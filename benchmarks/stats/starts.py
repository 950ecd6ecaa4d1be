"""What the starts of a bench say: where a process lies in memory moves all its times, so a start is one observation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
"""Two-sided, of one comparison."""


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


def shown_longer(times: Sequence[float], than: Sequence[float]) -> bool:
    """Whether one variant takes longer than another, beyond what starting both anew changes.

    Student's t on the differences of logarithms, start by start.

    Args:
        times: The time of each start, in any unit.
        than: Those of the other, in the same order.
    """
    from scipy.stats import t

    count = min(len(times), len(than))
    if count < 2:
        return False
    differences = np.log(times[:count]) - np.log(than[:count])
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    return float(differences.mean()) > float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * max(error, 1e-9)
