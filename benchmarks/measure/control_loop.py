"""The control loop: each variant at a fixed rate, as on a robot, with every tick timed from when it was due.

The loop itself is ``pacing.py``, and runs in the variant's own process. It is run in segments, and the variants take
turns at them, in an order drawn anew each time: what a shared machine does within a minute meets all of them alike.

    A C B   B A C   C A B   ...   then the first actions after idle gaps: A, B, C

Outside its segments a process waits, and what else takes the machine's time is read before and after each.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.measure.interference import Interference, Meter
from benchmarks.measure.messages import Late, Pace, Ticks, Turn
from benchmarks.measure.protocol import Candidate, Protocol, usable_cores
from benchmarks.measure.worker_process import WorkerError, WorkerProcess

GAPS = ((0.1, 10), (1.0, 5), (10.0, 2))
"""Seconds idle, and how often: threads fall asleep and caches are lost at different times."""

QUICK_GAPS = ((0.1, 3), (1.0, 3), (10.0, 1))

SEGMENTS = 6
"""Parts of a loop; fewer where it has fewer ticks."""

LEAD_IN_S = 0.2
"""Ticks of so long come before those of a segment, but no more than it has itself: a loop on a robot does not begin
anew every few seconds."""


@dataclass(frozen=True)
class ControlLoop:
    """How one variant did in a loop at a fixed rate.

    Attributes:
        name: Name of its row.
        rate_hz: Ticks a second.
        deadline_ms: How long after its scheduled moment a tick's action may come.
        latencies_ms: Of each tick that was acted on, the moment of its action less the moment it was scheduled for.
        starts_ms: Of each such tick, the moment it began less the moment it was scheduled for.
        after_idle_ms: Seconds idle, as text ("0.1", "1", "10"), and how long the first action after each such gap took.
        error: Why there are no ticks, or fewer, or empty.
        dropped: How many ticks were not acted on, since they fell due while the loop was late; all missed.
        late: What became of late ticks.
        segments: How many ticks were acted on in each segment; empty in version 0.2.0, which had one.
        disturbances: What else went on, one a segment.
        idle_cores: How many cores' time the process took while it waited for its next tick: 1.0 is a whole core, which
            the rest of the robot does not have. None where it never waited.
        threads: Threads inside an operation; 0 in version 0.2.0.
        spin: Whether idle threads spun between ticks; in version 0.2.0 they always did.
        quick: Whether the bench was a short one.
    """

    name: str
    rate_hz: float
    deadline_ms: float
    latencies_ms: tuple[float, ...] = ()
    starts_ms: tuple[float, ...] = ()
    after_idle_ms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    error: str = ""
    dropped: int = 0
    late: Late = "catch-up"
    segments: tuple[int, ...] = ()
    disturbances: tuple[Interference, ...] = ()
    idle_cores: float | None = None
    threads: int = 0
    spin: bool = True
    quick: bool = False

    @property
    def ticks(self) -> int:
        """How many ticks fell due."""
        return len(self.latencies_ms) + self.dropped

    @property
    def missed(self) -> int:
        """How many ticks acted after their deadline, or not at all."""
        return self.dropped + sum(latency > self.deadline_ms for latency in self.latencies_ms)

    @property
    def disturbed(self) -> int:
        """In how many segments something else took time."""
        return sum(one.disturbed for one in self.disturbances)

    @property
    def worst_ms(self) -> float:
        """The largest latency; NaN without ticks."""
        return max(self.latencies_ms, default=float("nan"))

    @property
    def jitter_ms(self) -> float:
        """Standard deviation of the ticks' latencies: how unevenly the actions come; NaN without ticks."""
        return float(np.std(self.latencies_ms)) if self.latencies_ms else float("nan")


def segments(pace: Pace) -> list[Pace]:
    """Return the parts that a loop is run in."""
    count = min(SEGMENTS, pace.ticks)
    sizes = [len(part) for part in np.array_split(np.arange(pace.ticks), count)]
    most = math.ceil(LEAD_IN_S * pace.rate_hz)
    return [replace(pace, seconds=size / pace.rate_hz, gaps=(), lead_in=min(most, size)) for size in sizes]


def steps_per_candidate(pace: Pace) -> int:
    """How often ``run`` calls ``on_step`` for one candidate: its start, its segments, the gaps."""
    return len(segments(pace)) + 2


def run(
    candidates: Sequence[Candidate],
    protocol: Protocol,
    pace: Pace,
    deadline_ms: float,
    on_step: Callable[[str, str], None] = lambda name, stage: None,
) -> Iterator[tuple[ControlLoop, ...]]:
    """Run the loops of all candidates, segment by segment, and yield all of them as they are after each.

    Args:
        candidates: Those whose loop is to run.
        protocol: Threads, spinning, cores and warm-up.
        pace: Rate, duration, idle gaps, and what becomes of late ticks.
        deadline_ms: How long after its scheduled moment an action may come.
        on_step: Called with a row's name and what comes next.

    Yields:
        One loop for each candidate, in the order given, after each segment and after the gaps. One whose process failed
        keeps what it gave until then, and ``error`` says why it ended; the others go on.
    """
    runs = [_Run(candidate, protocol, pace, deadline_ms) for candidate in candidates]
    order = random.Random(0)
    with ExitStack() as stack:
        for one in runs:
            on_step(one.loop.name, "control loop, start")
            one.attempt(lambda one=one: one.start(stack))  # type: ignore[misc]
        parts = segments(pace)
        for index, part in enumerate(parts):
            for one in order.sample(runs, len(runs)):
                on_step(one.loop.name, f"control loop, segment {index + 1} of {len(parts)}")
                one.attempt(lambda one=one, part=part: one.keep_pace(part))  # type: ignore[misc]
            yield tuple(one.loop for one in runs)
        for one in runs:
            on_step(one.loop.name, "control loop, after idle gaps")
            one.attempt(one.idle)
    yield tuple(one.loop for one in runs)


class _Run:
    """One candidate while its loop is run."""

    def __init__(self, candidate: Candidate, protocol: Protocol, pace: Pace, deadline_ms: float) -> None:
        self.candidate, self.protocol, self.pace = candidate, protocol, pace
        self.waited = self.burnt = 0.0
        self.loop = ControlLoop(
            candidate.name,
            pace.rate_hz,
            deadline_ms,
            late=pace.late,
            threads=protocol.threads,
            spin=protocol.spin,
            quick=protocol.quick,
        )

    def attempt(self, part: Callable[[], None]) -> None:
        """Do a part unless an earlier one failed; a failure ends this candidate, not the others."""
        if self.loop.error:
            return
        try:
            part()
        except WorkerError as error:
            self.loop = replace(self.loop, error=str(error))

    def start(self, stack: ExitStack) -> None:
        """Start the process and let it warm up."""
        self.worker = stack.enter_context(
            WorkerProcess(self.candidate.assignment(self.protocol), self.candidate.worker)
        )
        self.worker.turn(Turn(self.protocol.warmup_calls, self.protocol.warmup_seconds))
        cores = self.worker.ready.cores
        self.meter = Meter(self.worker.pid, usable_cores(), cores, gpu=self.candidate.on_gpu)

    def keep_pace(self, part: Pace) -> None:
        """Run one segment, and add it to what there is."""
        self.meter.begin()
        ticks = self.worker.keep_pace(part)
        self.meter.end()
        self.waited += ticks.idle
        self.burnt += ticks.idle_processor
        self.loop = self._with(ticks)

    def _with(self, ticks: Ticks) -> ControlLoop:
        loop = self.loop
        return replace(
            loop,
            latencies_ms=loop.latencies_ms + _milliseconds(ticks.latencies),
            starts_ms=loop.starts_ms + _milliseconds(ticks.starts),
            dropped=loop.dropped + ticks.dropped,
            segments=(*loop.segments, len(ticks.latencies)),
            disturbances=(*loop.disturbances, self.meter.disturbance()),
            idle_cores=self.burnt / self.waited if self.waited else None,
        )

    def idle(self) -> None:
        """Let it act once after each idle gap."""
        ticks = self.worker.keep_pace(replace(self.pace, seconds=0.0))
        gaps = {gap: _milliseconds(latencies) for gap, latencies in ticks.after_idle.items()}
        self.loop = replace(self.loop, after_idle_ms=gaps)


def _milliseconds(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(1000 * value for value in seconds)
