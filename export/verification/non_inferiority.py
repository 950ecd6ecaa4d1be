"""The statistics of a verdict: how sure can we be that a variant does not lose more than a margin?

Returns are often capped and failures rare: if 4 % of episodes lose half of the scale, 20 pairs look clean 44 %
of the time, and a bootstrap of 20 zeros is certain of itself. The bound here is a *betting* bound for the mean of a
bounded variable (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting",
https://doi.org/10.1093/jrsssb/qkad009): bet, pair after pair, against the claim "the mean loss is m or more";
by Ville's inequality a stake that has grown twentyfold refutes the claim with 95 % confidence. It assumes nothing
about the losses but their bound, is exact for any number of pairs, and stays valid however often one looks, so
pairs can be added until the verdict is clear. When all pairs are clean, 157 verify at a margin of 2 % (the exact
binomial bound, for which their number is fixed before, needs 149).

Thirteen variants that are each wrongly verified in 5 % of cases are not 5 %, and the fastest one ships. So ``verified``
holds jointly, by closed testing: a variant's claim is refuted once every set of claims that contains it is, and a
set is refuted by the *mean* of its stakes (Vovk & Wang 2021, "E-values: calibration, combination and applications",
https://doi.org/10.1214/20-AOS2020). Stakes are averaged after the same number of pairs, never their maxima. A variant
that runs no more pairs keeps the stake that it has: to stop betting is a bet, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

CONFIDENCE = 0.95
MARGIN = 0.02
"""The mean paired loss that is still "not worse", as a share of (reference return - random return)."""

MAX_STAKE = 0.95
"""Largest share of the stake that one pair may cost. Below 1, so that one total loss does not end the game."""

MAX_PAIRS = 100_000
"""Where the search for the number of pairs still needed gives up."""

REFUTED = math.log(1.0 / (1.0 - CONFIDENCE))
"""Logarithm of a stake that refutes a claim."""


@dataclass(frozen=True)
class Verdict:
    """What paired losses prove.

    Attributes:
        status: ``verified`` if the mean loss is below the margin, jointly for all that were judged together;
            ``rejected`` if the lower bound is above it; else ``provisional``: there are too few pairs to know.
        mean: Mean loss, as a share of the scale; no loss is clipped.
        lower: 95 % one-sided bound below the mean of the clipped losses, of this variant alone.
        upper: 95 % one-sided bound above it.
        needed: How many more pairs would make a provisional verdict clear: all of them clean; or, where it looks
            worse, like those so far. ``MAX_PAIRS`` stands for so many or more.
        looks_worse: Whether it is provisional, and the mean of the clipped losses is not below the margin.
        clipped: How many losses and gains are larger than the scale, as which they count in the bounds.
    """

    status: Literal["verified", "provisional", "rejected"]
    mean: float
    lower: float
    upper: float
    needed: int
    looks_worse: bool = False
    clipped: int = 0


def judge(losses: np.ndarray, margin: float = MARGIN) -> Verdict:
    """Judge the losses so far of one variant, by itself.

    Args:
        losses: float [n] in the order of the pairs: (reference return - variant return) / scale.
        margin: Largest mean loss that is "not worse".
    """
    return judge_jointly({"": losses}, margin)[""]


def judge_jointly(
    losses: Mapping[str, np.ndarray],
    margin: float = MARGIN,
    *,
    running: Collection[str] | None = None,
    beside: Sequence[np.ndarray] = (),
    at_once: bool = False,
) -> dict[str, Verdict]:
    """Judge the losses so far of several variants, so that with 95 % confidence none is wrongly ``verified``.

    Args:
        losses: float [n] of each, finite, in the order of its pairs: (reference return - variant return) / scale. One
            that has fewer than others ran no more. In the bounds a loss counts at most as the whole scale, a gain too.
        margin: Largest mean loss that is "not worse".
        running: Those that go on, for the number of pairs that are needed. Default: all that are not clear.
        beside: Losses of others that the verdicts hold jointly with, but that are not asked for.
        at_once: Whether all losses were there from the beginning: then only the last look counts, at all of them.

    Returns:
        The verdict on each, in the same order. ``verified`` holds jointly; ``rejected`` and the bounds are of the
        variant alone.
    """
    given = {name: np.asarray(values, float) for name, values in losses.items()}
    clipped = {name: np.clip(values, -1.0, 1.0) for name, values in given.items()}
    others = [log_wealth(np.clip(values, -1.0, 1.0), margin) for values in beside]
    stakes = aligned([*(log_wealth(values, margin) for values in clipped.values()), *others])
    ever = np.any(refuted(stakes[:, -1:] if at_once else stakes), axis=1)[: len(clipped)]
    found = {}
    for (name, values), verified in zip(clipped.items(), ever, strict=True):
        mean = float(given[name].mean()) if len(values) else 0.0
        lower, upper = -upper_bound(-values), upper_bound(values)
        beyond = int(np.count_nonzero(values != given[name]))
        if verified:
            found[name] = Verdict("verified", mean, lower, min(upper, margin), 0, clipped=beyond)
        elif lower > margin:
            found[name] = Verdict("rejected", mean, lower, upper, 0, clipped=beyond)
        else:
            worse = len(values) > 0 and float(values.mean()) >= margin
            needed = pairs_to_decide(values, margin) if worse else 0
            found[name] = Verdict("provisional", mean, lower, upper, needed, worse, beyond)
    unclear = {name for name, verdict in found.items() if verdict.status == "provisional"}
    going = unclear if running is None else unclear.intersection(running)
    clean = {name for name in going if not found[name].looks_worse}
    for name, needed in _clean_pairs_needed(clipped, others, margin, going, clean).items():
        found[name] = replace(found[name], needed=needed)
    return found


def log_wealth(losses: np.ndarray, mean: float) -> np.ndarray:
    """Return the logarithm of the stake after each pair, betting against "the mean loss is ``mean`` or more".

    Args:
        losses: float [..., n] in [-1, 1], in the order of the pairs.
        mean: The claim, in (-1, 1].

    Returns:
        float [..., n]. Each bet depends on earlier pairs only: the nearly growth-optimal one for their mean and
        variance (the paper's "aGRAPA"), no larger than ``MAX_STAKE`` allows.
    """
    past = np.maximum(np.arange(losses.shape[-1]), 1)
    past_mean = (np.cumsum(losses, axis=-1) - losses) / past
    past_square = (np.cumsum(losses**2, axis=-1) - losses**2) / past
    gap = mean - past_mean
    spread = np.maximum(past_square - past_mean**2, 0.0) + gap**2
    most = MAX_STAKE / (1.0 - mean) if mean < 1.0 else MAX_STAKE / 1e-9
    bet = np.clip(gap / np.maximum(spread, 1e-12), 0.0, most)
    wealth: np.ndarray = np.cumsum(np.log1p(bet * (mean - losses)), axis=-1)
    return wealth


def aligned(stakes: Sequence[np.ndarray]) -> np.ndarray:
    """Return logarithms of stakes side by side, float [variants, most pairs]: one that ends stays as it is."""
    longest = max(map(len, stakes), default=0)
    rows = [np.concatenate([one, np.full(longest - len(one), one[-1] if len(one) else 0.0)]) for one in stakes]
    return np.array(rows).reshape(len(stakes), longest)


def refuted(stakes: np.ndarray) -> np.ndarray:
    """Return which claims are refuted at which look, by closed testing with averaged stakes.

    A claim is refuted at a look if the mean stake of every set of claims that contains it is twentyfold. The set that
    is hardest to refute adds all whose stake is less: so what the claim's own stake has above it must cover what they
    lack together.

    Args:
        stakes: Logarithms, float [..., variants, looks].

    Returns:
        bool [..., variants, looks]: by the stakes of that very look. What was refuted once remains so.
    """
    wealth, enough = np.exp(np.minimum(stakes, 700.0)), math.exp(REFUTED)
    lacking = np.maximum(enough - wealth, 0.0).sum(axis=-2, keepdims=True)
    claims: np.ndarray = wealth - enough >= lacking
    return claims


def upper_bound(losses: np.ndarray, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided upper bound of the mean of losses in [-1, 1], valid at any number of looks."""
    if len(losses) == 0:
        return 1.0
    needed = math.log(1.0 / (1.0 - confidence))

    def is_refuted(mean: float) -> bool:
        return bool(log_wealth(losses, mean).max() >= needed)

    low, high = float(losses.mean()), 1.0
    if not is_refuted(high - 1e-9):
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_refuted(middle) else (middle, high)
    return high


def pairs_to_decide(losses: np.ndarray, margin: float = MARGIN) -> int:
    """Return how many more pairs like those so far, in the same order again, bring either bound across the margin."""
    more = 64
    while more <= MAX_PAIRS:
        likely = np.resize(losses, len(losses) + more)
        stake = np.maximum(log_wealth(likely, margin), log_wealth(-likely, -margin))[len(losses) :]
        enough = np.flatnonzero(stake >= REFUTED)
        if len(enough):
            return int(enough[0]) + 1
        more *= 2
    return MAX_PAIRS


def _clean_pairs_needed(
    losses: Mapping[str, np.ndarray],
    others: Sequence[np.ndarray],
    margin: float,
    going: Collection[str],
    asked: Collection[str],
) -> dict[str, int]:
    """Return how many more pairs those asked for need if all that go on lose nothing; ``others`` are stakes."""
    found = dict.fromkeys(asked, MAX_PAIRS)
    more = 64
    while asked and more <= MAX_PAIRS:
        zeros = np.zeros(more)
        likely = [np.concatenate([values, zeros]) if name in going else values for name, values in losses.items()]
        claims = refuted(aligned([*(log_wealth(values, margin) for values in likely), *others]))[: len(losses)]
        for (name, values), looks in zip(losses.items(), claims, strict=True):
            if name in asked and looks[len(values) :].any():
                found[name] = int(looks[len(values) :].argmax()) + 1
        if max(found.values()) < MAX_PAIRS:
            break
        more *= 2
    return found
