"""How often the reward gate verifies a policy that is worse by exactly the margin, looking after every ten pairs."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from benchmarks.claims import Options, Outcome
from export.verification.non_inferiority import CONFIDENCE, MARGIN, judge, log_wealth
from export.verification.reward import LOOK_EVERY, is_clear
from export.verification.verify import FULL_PAIRS

COMPARISONS, MAX_SHARE = 2000, 0.06
CLAIM = (
    f"A policy that is worse by exactly the margin ({MARGIN:.0%} of the scale) is verified in at most {MAX_SHARE:.0%}"
    f" of {COMPARISONS:,} comparisons, stopped as `xfer verify --full` stops."
)

WORSE_BY_THE_MARGIN: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "uniform losses": lambda rng, n: rng.uniform(-0.5, 0.5, n) + MARGIN,
    "capped returns, half of the scale lost in 4 % of the episodes": lambda rng, n: (rng.random(n) < 2 * MARGIN) * 0.5,
}
"""Losses as shares of the scale, all of mean ``MARGIN``."""


def reproduce(options: Options) -> Outcome:
    """Simulate the comparisons, on all cores."""
    comparisons = options.runs or COMPARISONS
    rows = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context) as executor:
        for kind in WORSE_BY_THE_MARGIN:
            seeds = [(options.seed, index) for index in range(comparisons)]
            verified = sum(executor.map(partial(is_verified, kind), seeds, chunksize=20))
            share = verified / comparisons
            rows.append(
                {
                    "losses": kind,
                    "comparisons": comparisons,
                    "verified": verified,
                    "share": share,
                    "at_most": MAX_SHARE,
                    "holds": share <= MAX_SHARE,
                }
            )
    return Outcome(tuple(rows))


def is_verified(kind: str, seed: tuple[int, int]) -> bool:
    """Whether one comparison ends as ``verified``: pairs are added until ``judge``'s verdict is clear."""
    losses = WORSE_BY_THE_MARGIN[kind](np.random.default_rng(seed), FULL_PAIRS)
    for pairs in range(LOOK_EVERY, FULL_PAIRS + 1, LOOK_EVERY):
        seen = losses[:pairs]
        if may_be_clear(seen):
            verdict = judge(seen)
            if is_clear(verdict):
                return verdict.status == "verified"
    return False


def may_be_clear(losses: np.ndarray) -> bool:
    """Whether ``is_clear(judge(losses))`` at all: the same decision, at a tenth of the work.

    A verdict is clear if the upper bound is below the margin, or the lower bound above it. The upper bound is never
    below the mean, nor the lower one above it, so only one of the two is in question.
    """
    if losses.mean() < MARGIN:
        return is_below(losses, MARGIN)
    return is_below(-losses, -MARGIN)


def is_below(losses: np.ndarray, limit: float) -> bool:
    """Whether ``upper_bound(losses) < limit``: its own bisection, ended once the limit is outside of what is left."""
    needed = math.log(1.0 / (1.0 - CONFIDENCE))
    low, high = float(losses.mean()), 1.0

    def refuted(mean: float) -> bool:
        return bool(log_wealth(losses, mean).max() >= needed)

    if not refuted(high - 1e-9):
        return False
    for _ in range(40):
        if not low < limit <= high:
            break
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high < limit
