"""A soak: one variant without a pause for minutes, to see what only shows with time.

    drift        its calls become slower: heat, a governor, another program
    throttling   the processor's clock, its temperature, the container's quota
    memory       it grows with every call

Interval by interval the variant's own process calls back to back; between two of them, within milliseconds, its memory
and the machine's sensors are read.

How much something grew is Sen's slope (Sen 1968): the median of the slopes between all pairs of intervals, with a 95 %
interval, of the intervals but the first tenth, in which memory is filled and the processor warms up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.measure import conditions
from benchmarks.measure.interference import Meter, throttled
from benchmarks.measure.messages import Turn
from benchmarks.measure.protocol import Candidate, Protocol, usable_cores
from benchmarks.measure.worker_process import WorkerError, WorkerProcess

POINTS = 300
SHORTEST_S, LONGEST_S = 0.25, 10.0
"""Of an interval; a soak has about ``POINTS`` of them where these allow it."""

MIN_POINTS = 10
"""With fewer intervals nothing is said about growth."""

MOST_PAIRED = 500
"""Intervals that growth is taken from; of more, evenly spread ones."""


@dataclass(frozen=True)
class SoakInterval:
    """What one interval gave.

    Attributes:
        end_s: When it was over, in seconds since the soak began.
        calls: How many calls it had.
        p50_ms: Their median.
        max_ms: The slowest.
        memory_bytes: Resident memory of the variant's process at the end.
        clock_mhz: Mean clock of its cores at the end, or None where the system does not tell.
        gpu_clock_mhz: The GPU's, or None where the variant does not run on one.
        temperature: Of the part that is nearest to its limit, in degrees Celsius, or None without a sensor.
        throttled_s: How long the container's quota was used up meanwhile.
        slowdowns: How often the processor slowed down for heat meanwhile.
        disturbed: Whether something else took the cores' time.
    """

    end_s: float
    calls: int
    p50_ms: float
    max_ms: float
    memory_bytes: int
    clock_mhz: float | None = None
    gpu_clock_mhz: float | None = None
    temperature: float | None = None
    throttled_s: float = 0.0
    slowdowns: int = 0
    disturbed: bool = False


@dataclass(frozen=True)
class Growth:
    """How much a figure grew over a whole soak, with bounds at 95 %.

    Attributes:
        value: By Sen's slope.
        low: Lower bound.
        high: Upper bound.
    """

    value: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether it grew or shrank at all, at 95 %."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Soak:
    """How one variant did for minutes.

    Attributes:
        name: Name of its row.
        minutes: How long it was to run.
        intervals: In order.
        ended: Why it ended early, or empty.
    """

    name: str
    minutes: float
    intervals: tuple[SoakInterval, ...] = ()
    ended: str = ""

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.intervals[-1].end_s if self.intervals else 0.0

    @property
    def drift(self) -> Growth | None:
        """By which share of its median time a call became slower; None with too few intervals."""
        typical = float(np.median([one.p50_ms for one in self.intervals])) if self.intervals else 1.0
        grown = self._growth([one.p50_ms for one in self.intervals])
        return grown and Growth(grown.value / typical, grown.low / typical, grown.high / typical)

    @property
    def memory_growth(self) -> Growth | None:
        """By how many bytes its memory grew; None with too few intervals."""
        return self._growth([one.memory_bytes for one in self.intervals])

    def _growth(self, values: Sequence[float]) -> Growth | None:
        from scipy.stats import theilslopes

        first = len(values) // 10
        if len(values) - first < MIN_POINTS:
            return None
        chosen = np.unique(np.linspace(first, len(values) - 1, MOST_PAIRED).astype(int))
        moments = [self.intervals[index].end_s for index in chosen]
        found = theilslopes([values[index] for index in chosen], moments, 0.95)
        slope, low, high = (float(value) * self.seconds for value in (found.slope, found.low_slope, found.high_slope))
        return Growth(slope, low, high)


def interval_seconds(minutes: float) -> float:
    """Return how long an interval of a soak is."""
    return min(max(60 * minutes / POINTS, SHORTEST_S), LONGEST_S)


def run(
    candidate: Candidate,
    protocol: Protocol,
    minutes: float,
    on_step: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Soak]:
    """Soak a variant, and yield what there is after each interval.

    Args:
        candidate: The variant.
        protocol: Threads, spinning, cores and warm-up.
        minutes: How long.
        on_step: Called before each interval with the seconds that are over.

    Yields:
        The soak so far. Where the variant's process fails, the last one says so.
    """
    soak = Soak(candidate.name, minutes)
    turn = Turn(1, interval_seconds(minutes))
    try:
        with WorkerProcess(candidate.assignment(protocol), candidate.worker) as worker:
            watch = _Watch(worker, candidate, protocol)
            worker.turn(Turn(protocol.warmup_calls, protocol.warmup_seconds))
            began = time.monotonic()
            while soak.seconds < 60 * minutes:
                on_step(soak.seconds)
                samples = watch.turn(turn)
                soak = replace(soak, intervals=(*soak.intervals, watch.interval(samples, time.monotonic() - began)))
                yield soak
    except WorkerError as error:
        yield replace(soak, ended=f"it failed after {soak.seconds:,.0f} s: {error}")


class _Watch:
    """Reads memory, clocks, sensors and counters before and after the intervals."""

    def __init__(self, worker: WorkerProcess, candidate: Candidate, protocol: Protocol) -> None:
        import psutil

        self._worker, self._process = worker, psutil.Process(worker.pid)
        self._cores = worker.ready.cores
        self._meter = Meter(worker.pid, usable_cores(), self._cores, gpu=candidate.on_gpu)
        self._throttled, self._slowdowns = throttled(), conditions.slowdowns(self._cores)

    def turn(self, turn: Turn) -> tuple[float, ...]:
        self._meter.begin()
        samples = self._worker.turn(turn).seconds
        self._meter.end()
        return samples

    def interval(self, samples: Sequence[float], end_s: float) -> SoakInterval:
        around, hottest = self._meter.disturbance(), conditions.hottest()
        before = self._throttled, self._slowdowns
        self._throttled, self._slowdowns = throttled(), conditions.slowdowns(self._cores)
        return SoakInterval(
            end_s=end_s,
            calls=len(samples),
            p50_ms=1000 * float(np.median(samples)),
            max_ms=1000 * max(samples),
            memory_bytes=self._process.memory_info().rss,
            clock_mhz=around.frequency_mhz,
            gpu_clock_mhz=around.gpu_clock_mhz,
            temperature=hottest[1] if hottest else None,
            throttled_s=self._throttled - before[0],
            slowdowns=self._slowdowns - before[1],
            disturbed=around.disturbed,
        )
