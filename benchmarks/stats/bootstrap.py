"""What a variant's returns say about its mean reward: point estimates, each with an interval.

Beside the mean stands the interquartile mean, which a few failed or lucky episodes cannot move; both with
percentile-bootstrap intervals (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", https://arxiv.org/abs/2108.13264). They are for looking at. The verdict does not come from them: a
bootstrap of twenty equal returns has no width (``export/verification/non_inferiority.py`` says what is proven).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0
TRIMMED = 0.25
"""Share of the returns that the interquartile mean leaves out at each end."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its 95 % bootstrap interval, in the task's own units."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RewardSummary:
    """What is drawn of one variant's returns.

    Attributes:
        mean: Mean return.
        iqm: Interquartile mean: the mean of the middle half.
        episodes: How many returns there were.
    """

    mean: Interval
    iqm: Interval
    episodes: int


def summarize(returns: Sequence[float]) -> RewardSummary:
    """Return both estimates of one variant's returns.

    Raises:
        ValueError: If there are none.
    """
    return RewardSummary(mean(returns), interquartile_mean(returns), len(returns))


def mean(returns: Sequence[float]) -> Interval:
    """Return the mean return and its interval.

    Raises:
        ValueError: If there are none.
    """
    return _bootstrapped(returns, np.mean)


def interquartile_mean(returns: Sequence[float]) -> Interval:
    """Return the mean of the returns without the lowest and the highest quarter, and its interval.

    Raises:
        ValueError: If there are none.
    """
    from scipy.stats import trim_mean

    def middle(sample: np.ndarray, axis: int = -1) -> Any:
        return trim_mean(sample, TRIMMED, axis=axis)

    return _bootstrapped(returns, middle)


def _bootstrapped(returns: Sequence[float], statistic: Callable[..., Any]) -> Interval:
    """A percentile bootstrap over episodes, always with the same resamples; equal returns have no width."""
    from scipy.stats import bootstrap

    sample = np.asarray(returns, float)
    if not len(sample):
        raise ValueError("There are no returns to summarize.")
    if (sample == sample[0]).all():
        return Interval(float(sample[0]), float(sample[0]), float(sample[0]))
    interval = bootstrap(
        (sample,),
        statistic,
        n_resamples=RESAMPLES,
        batch=1000,  # what is held in memory at once
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(float(statistic(sample)), float(interval.low), float(interval.high))
