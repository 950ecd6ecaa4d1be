"""The statistics of the reward gate: how sure can we be that a variant does not lose more than a margin?

Returns are often capped and failures rare: if 4 % of episodes lose half of the scale, 20 pairs look clean 44 %
of the time, and a bootstrap of 20 zeros is certain of itself. The bound here is a *betting* bound for the mean of a
bounded variable (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting",
https://doi.org/10.1093/jrsssb/qkad009): bet, pair after pair, against the claim "the mean loss is m or more";
by Ville's inequality a stake that has grown twentyfold refutes the claim with 95 % confidence. It assumes nothing
about the losses but their bound, is exact for any number of pairs, and stays valid however often one looks, so
pairs can be added until the verdict is clear. When all pairs are clean it needs about as many as the exact
binomial bound (149 for a margin of 2 %).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONFIDENCE = 0.95
MARGIN = 0.02
"""The mean paired loss that is still "not worse", as a share of (reference return - random return)."""

MAX_STAKE = 0.95
"""Largest share of the stake that one pair may cost. Below 1, so that one total loss does not end the game."""

MAX_PAIRS = 100_000
"""Where the search for the number of pairs still needed gives up."""


@dataclass(frozen=True)
class Verdict:
    """What paired losses prove.

    Attributes:
        status: ``verified`` if the upper bound is below the margin; ``rejected`` if the mean itself is not;
            else ``provisional``: it looks clean, but there are too few pairs to know.
        mean: Mean loss, as a share of the scale.
        lower: 95 % one-sided bound below the mean loss.
        upper: 95 % one-sided bound above it.
        needed: How many more pairs, all clean, would verify; 0 unless provisional.
    """

    status: Literal["verified", "provisional", "rejected"]
    mean: float
    lower: float
    upper: float
    needed: int


def judge(losses: np.ndarray, margin: float = MARGIN) -> Verdict:
    """Judge the losses so far.

    Args:
        losses: float [n] in the order of the pairs: (reference return - variant return) / scale. A loss counts at most
            as the whole scale, a gain likewise.
        margin: Largest mean loss that is "not worse".
    """
    clipped = np.clip(np.asarray(losses, float), -1.0, 1.0)
    mean = float(clipped.mean()) if len(clipped) else 0.0
    upper, lower = upper_bound(clipped), -upper_bound(-clipped)
    if upper < margin:
        return Verdict("verified", mean, lower, upper, 0)
    if mean >= margin:
        return Verdict("rejected", mean, lower, upper, 0)
    return Verdict("provisional", mean, lower, upper, pairs_needed(clipped, margin))


def judge_jointly(losses: Mapping[str, np.ndarray], margin: float = MARGIN) -> dict[str, Verdict]:
    """Judge the losses so far of several variants, so that with 95 % confidence none is wrongly ``verified``.

    Args:
        losses: float [n] of each, as ``judge`` takes them.
        margin: Largest mean loss that is "not worse".
    """
    return {name: judge(values, margin) for name, values in losses.items()}


def log_wealth(losses: np.ndarray, mean: float) -> np.ndarray:
    """Return the logarithm of the stake after each pair, betting against "the mean loss is ``mean`` or more".

    Args:
        losses: float [n] in [-1, 1].
        mean: The claim, in (-1, 1].

    Returns:
        float [n]. Each bet depends on earlier pairs only: the nearly growth-optimal one for their mean and
        variance (the paper's "aGRAPA"), no larger than ``MAX_STAKE`` allows.
    """
    n = len(losses)
    past = np.arange(n)
    past_mean = (np.concatenate([[0.0], np.cumsum(losses)[:-1]])) / np.maximum(past, 1)
    past_square = (np.concatenate([[0.0], np.cumsum(losses**2)[:-1]])) / np.maximum(past, 1)
    gap = mean - past_mean
    spread = np.maximum(past_square - past_mean**2, 0.0) + gap**2
    most = MAX_STAKE / (1.0 - mean) if mean < 1.0 else MAX_STAKE / 1e-9
    bet = np.clip(gap / np.maximum(spread, 1e-12), 0.0, most)
    return np.cumsum(np.log1p(bet * (mean - losses)))


def upper_bound(losses: np.ndarray, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided upper bound of the mean of losses in [-1, 1], valid at any number of looks."""
    if len(losses) == 0:
        return 1.0
    needed = math.log(1.0 / (1.0 - confidence))

    def refuted(mean: float) -> bool:
        return bool(log_wealth(losses, mean).max() >= needed)

    low, high = float(losses.mean()), 1.0
    if not refuted(high - 1e-9):
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def pairs_needed(losses: np.ndarray, margin: float = MARGIN) -> int:
    """Return how many more pairs, all of loss 0, would bring the upper bound below the margin."""
    needed = math.log(1.0 / (1.0 - CONFIDENCE))
    more = 64
    while more <= MAX_PAIRS:
        wealth = log_wealth(np.concatenate([losses, np.zeros(more)]), margin)[len(losses) :]
        enough = np.flatnonzero(wealth >= needed)
        if len(enough):
            return int(enough[0]) + 1
        more *= 2
    return MAX_PAIRS


def pairs_to_decide(losses: np.ndarray, margin: float = MARGIN) -> int:
    """Return how many more pairs like those so far, in the same order again, bring either bound across the margin."""
    needed = math.log(1.0 / (1.0 - CONFIDENCE))
    more = 64
    while more <= MAX_PAIRS:
        likely = np.resize(losses, len(losses) + more)
        stake = np.maximum(log_wealth(likely, margin), log_wealth(-likely, -margin))[len(losses) :]
        enough = np.flatnonzero(stake >= needed)
        if len(enough):
            return int(enough[0]) + 1
        more *= 2
    return MAX_PAIRS
