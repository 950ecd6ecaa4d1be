"""How often a control loop misses its deadline: what so many ticks prove, and what they do not.

No miss in 3,000 ticks does not mean that none ever comes: a loop that misses one tick in 10,000 gets through them in
74 % of runs. So a rate is judged by its exact bounds (Clopper & Pearson 1934, "The Use of Confidence or Fiducial
Limits"), each of which holds with 95 % confidence: ``kept`` if even the upper one is within the limit, ``missed`` if
even the lower one is beyond it, else ``not proven``, and how many more ticks would prove it.

The bounds take ticks for independent. Misses that come in bursts say less than their number: a loop that drops late
ticks (``--late drop``) at least makes none of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

CONFIDENCE = 0.95
"""Of each bound. Then 3,000 ticks without a miss, a minute at 50 Hz, prove a rate of 1 in 1,000."""

MAX_TICKS = 10**9
"""Nobody waits for more."""

Verdict = Literal["kept", "missed", "not proven"]


@dataclass(frozen=True)
class Judged:
    """What the ticks of a loop prove.

    Attributes:
        verdict: Whether the deadline is kept.
        upper: Bound above the rate of misses, 0 to 1.
        more: How many more ticks, all in time, would prove that it is kept; 0 unless it is not proven, None if no
            number that somebody could wait for does.
    """

    verdict: Verdict
    upper: float
    more: int | None = 0


def lower_bound(missed: int, ticks: int, confidence: float = CONFIDENCE) -> float:
    """Return the exact bound below the rate of misses, 0 to 1."""
    from scipy.stats import beta

    return float(beta.ppf(1 - confidence, missed, ticks - missed + 1)) if missed else 0.0


def upper_bound(missed: int, ticks: int, confidence: float = CONFIDENCE) -> float:
    """Return the exact bound above the rate of misses, 0 to 1; 1 without ticks.

    Example:
        >>> round(upper_bound(0, 3000), 6)
        0.000998
    """
    from scipy.stats import beta

    return float(beta.ppf(confidence, missed + 1, ticks - missed)) if missed < ticks else 1.0


@lru_cache(maxsize=1024)
def judge(missed: int, ticks: int, max_rate: float) -> Judged:
    """Say whether so many misses in so many ticks prove that a deadline is kept.

    Args:
        missed: Ticks that acted after their deadline, or not at all.
        ticks: All that were due.
        max_rate: Largest share of ticks that may miss it, between 0 and 1.
    """
    upper = upper_bound(missed, ticks)
    if upper <= max_rate:
        return Judged("kept", upper)
    if lower_bound(missed, ticks) > max_rate:
        return Judged("missed", upper)
    return Judged("not proven", upper, _more(missed, ticks, max_rate))


def _more(missed: int, ticks: int, max_rate: float) -> int | None:
    """Return how many more ticks, all in time, bring the upper bound down to the limit."""
    few, enough = ticks, max(2 * ticks, 64)
    while upper_bound(missed, enough) > max_rate:
        few, enough = enough, 2 * enough
        if enough > MAX_TICKS:
            return None
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if upper_bound(missed, middle) <= max_rate else (middle, enough)
    return enough - ticks
