"""In which rounds the reference kernel was slowed: a neighbor was at work that no counter shows.

A neighbor on another core, or in another virtual machine, takes memory bandwidth, cache or clock, and nobody's counter
moves. But the kernel's own work never changes. So a round is called slowed if the kernel took longer in its turns by
more than what counts as unstable, and by more than chance explains: its turns are dealt anew to the rounds of the same
start, again and again, and the longest round of a whole bench counts (Westfall & Young 1993, the single-step max T
procedure, as in ``permutation.py``). So of benches in which turns do not depend on their round, at most 5 % have a
round that is called slowed, whatever the distribution of the times, and however many rounds there are.

What slows a whole start, or every round alike, is not found: there is nothing in the bench to hold it against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.stats.percentiles import TOLERANCE

FALSE_ALARMS = 0.05
"""Of undisturbed benches, how many may have a round that is called slowed."""

RESAMPLES = 999
"""How often turns are dealt anew."""

REFERENCE = 0.25
"""A start's usual time is this quantile of its turns': it holds while a neighbor is at work in half of them."""


def slowed(starts: Sequence[Sequence[Sequence[float]]]) -> tuple[bool, ...]:
    """Return of each round of a bench whether the kernel was slowed in it.

    Args:
        starts: For each start of its process the rounds, and of each round the time of each turn. An interrupted bench
            may have ended within a start.

    Returns:
        One a round, in order. With fewer than two rounds in each start nothing is found.
    """
    times = [[np.log(turns) for turns in rounds] for rounds in starts if len(rounds)]
    rng = np.random.default_rng(0)  # the same report always says the same
    largest = np.full(RESAMPLES, -np.inf)
    observed: list[float] = []
    for rounds in times:
        turns = np.concatenate(rounds)
        usual = float(np.quantile(turns, REFERENCE))
        begins = np.cumsum([0, *map(len, rounds[:-1])])
        counts = [len(one) for one in rounds]
        dealt = rng.permuted(np.tile(turns, (RESAMPLES, 1)), axis=1)
        longest = (np.add.reduceat(dealt, begins, axis=1) / counts).max(axis=1)
        largest = np.maximum(largest, longest - usual)
        observed += [float(one.mean()) - usual for one in rounds]
    if not observed:
        return ()
    # With what was observed there are RESAMPLES + 1 dealings, of which 5 % at most may be longer than this.
    critical = np.sort(largest)[math.ceil((1 - FALSE_ALARMS) * (RESAMPLES + 1)) - 1]
    return tuple(bool(excess > max(math.log1p(TOLERANCE), critical + 1e-12)) for excess in observed)
