"""The loop of a robot: act at a fixed rate, and time each action from the moment it was scheduled for.

A loop that is timed from the moment it happened to begin hides its own delays: after one slow action the next
ones begin late, and would look as fast as ever (Tene 2015 calls this coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.measure.messages import Pace, Ticks


def keep_pace(
    act: Callable[[], object],
    pace: Pace,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Ticks:
    """Act at a fixed rate, then after each idle gap.

    Tick k is due ``k / rate_hz`` after the first. Between ticks the process sleeps; a tick that is late already
    begins at once, so a slow action makes the following ones late until they have caught up.

    Args:
        act: Does all that a tick does, and returns when the action is there.
        pace: Rate, duration and gaps.
        clock: Says what time it is, in seconds.
        sleep: Waits for so many seconds.
    """

    def act_at(due: float) -> tuple[float, float]:
        """Act at a moment, or at once if it has passed; return how long after it the action began and was there."""
        if (early := due - clock()) > 0:
            sleep(early)
        began = clock()
        act()
        return began - due, clock() - due

    latencies, starts = [], []
    first = clock() + 1 / pace.rate_hz
    for tick in range(pace.ticks):
        start, latency = act_at(first + tick / pace.rate_hz)
        starts.append(start)
        latencies.append(latency)
    after_idle = {f"{gap:g}": tuple(act_at(clock() + gap)[1] for _ in range(count)) for gap, count in pace.gaps}
    return Ticks(tuple(latencies), tuple(starts), after_idle)
