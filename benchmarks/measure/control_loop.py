"""The control loop: each variant alone at a fixed rate, as on a robot, with every tick timed from when it was due.

The loop itself is ``pacing.py``, and runs in the variant's own process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.measure.messages import Pace, Turn
from benchmarks.measure.protocol import Candidate, Protocol
from benchmarks.measure.worker_process import WorkerError, WorkerProcess

GAPS = ((0.1, 10), (1.0, 5), (10.0, 2))
"""Seconds idle, and how often: threads fall asleep and caches are lost at different times."""

QUICK_GAPS = ((0.1, 3), (1.0, 3), (10.0, 1))


@dataclass(frozen=True)
class ControlLoop:
    """How one variant did in a loop at a fixed rate.

    Attributes:
        name: Name of its row.
        rate_hz: Ticks a second.
        deadline_ms: How long after its scheduled moment a tick's action may come.
        latencies_ms: Of each tick, the moment of its action less the moment it was scheduled for.
        starts_ms: Of each tick, the moment it began less the moment it was scheduled for.
        after_idle_ms: Seconds idle, as text ("0.1", "1", "10"), and how long the first action after each such gap took.
        inferred: Whether an inference fell on each tick; empty in version 0.2.0 and in C++, where one falls on all.
        error: Why there are no ticks, or empty.
    """

    name: str
    rate_hz: float
    deadline_ms: float
    latencies_ms: tuple[float, ...] = ()
    starts_ms: tuple[float, ...] = ()
    after_idle_ms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    error: str = ""
    inferred: tuple[bool, ...] = ()

    @property
    def missed(self) -> int:
        """How many ticks acted after their deadline."""
        return sum(latency > self.deadline_ms for latency in self.latencies_ms)

    @property
    def worst_ms(self) -> float:
        """The largest latency; NaN without ticks."""
        return max(self.latencies_ms, default=float("nan"))

    @property
    def jitter_ms(self) -> float:
        """Standard deviation of the ticks' latencies: how unevenly the actions come; NaN without ticks."""
        return float(np.std(self.latencies_ms)) if self.latencies_ms else float("nan")


def run(
    candidates: Sequence[Candidate],
    protocol: Protocol,
    pace: Pace,
    deadline_ms: float,
    on_loop: Callable[[str], None] = lambda name: None,
) -> Iterator[ControlLoop]:
    """Run the loop of one candidate after the other, and yield each as it is done.

    Args:
        candidates: Those whose loop is to run.
        protocol: Threads, cores and warm-up.
        pace: Rate, duration and idle gaps.
        deadline_ms: How long after its scheduled moment an action may come.
        on_loop: Called with a row's name before its loop begins.
    """
    for candidate in candidates:
        on_loop(candidate.name)
        try:
            with WorkerProcess(candidate.assignment(protocol), candidate.worker) as worker:
                worker.turn(Turn(protocol.warmup_calls, protocol.warmup_seconds))
                ticks = worker.keep_pace(pace)
        except WorkerError as error:
            yield ControlLoop(candidate.name, pace.rate_hz, deadline_ms, error=str(error))
            continue
        yield ControlLoop(
            candidate.name,
            pace.rate_hz,
            deadline_ms,
            _milliseconds(ticks.latencies),
            _milliseconds(ticks.starts),
            {gap: _milliseconds(latencies) for gap, latencies in ticks.after_idle.items()},
            inferred=ticks.inferred,
        )


def _milliseconds(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(1000 * value for value in seconds)
