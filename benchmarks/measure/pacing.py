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
    processor: Callable[[], float] = time.process_time,
) -> Ticks:
    """Act at a fixed rate, then after each idle gap.

    Tick k is due ``k / rate_hz`` after the first. Between ticks the process sleeps; what its threads burn meanwhile is
    counted. Ticks that fall due while it is still acting are acted on at once, so that a slow action makes the
    following ones late until they have caught up; or they are dropped, and it goes on with the next one to come.

    Args:
        act: Does all that a tick does, and returns when the action is there.
        pace: Rate, duration, gaps, and what becomes of late ticks.
        clock: Says what time it is, in seconds.
        sleep: Waits for so many seconds.
        processor: Says how much processor time this process has taken, with all of its threads, in seconds.
    """
    idle = burnt = 0.0

    def act_at(due: float) -> tuple[float, float]:
        """Act at a moment, or at once if it has passed; return how long after it the action began and was there."""
        nonlocal idle, burnt
        if (early := due - clock()) > 0:
            before = processor()
            sleep(early)
            burnt += processor() - before
            idle += early
        began = clock()
        act()
        return began - due, clock() - due

    first = clock() + (1 + pace.lead_in) / pace.rate_hz

    def due(tick: int) -> float:
        return first + tick / pace.rate_hz

    latencies, starts, dropped = [], [], 0
    tick = -pace.lead_in
    while tick < pace.ticks:
        start, latency = act_at(due(tick))
        if tick >= 0:
            starts.append(start)
            latencies.append(latency)
        else:
            idle = burnt = 0.0
        tick += 1
        while pace.late == "drop" and tick < pace.ticks and due(tick) < clock():
            dropped += tick >= 0
            tick += 1
    waited, taken = idle, burnt
    after_idle = {f"{gap:g}": tuple(act_at(clock() + gap)[1] for _ in range(count)) for gap, count in pace.gaps}
    return Ticks(tuple(latencies), tuple(starts), after_idle, dropped, waited, taken)
