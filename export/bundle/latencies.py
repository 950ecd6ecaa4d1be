"""Latencies: what a bench and its control loop measured of a variant, and which of several benches counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Protocol = Literal["quick", "default", "strict"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
"""The weaker first."""


@dataclass(frozen=True)
class Latency:
    """What ``xfer bench`` measured of one variant, raw frame to action, batch 1; times in milliseconds.

    Attributes:
        p50_ms: Median, and likewise the other percentiles; None below the sample floor of a percentile.
        p99_upper_ms: 99 % confidence bound above p99, or None below its floor.
        speedup: Median over rounds of the reference's median divided by this variant's, in the same round.
        speedup_spread: Smallest and largest of those ratios.
        samples: Number of timed calls.
        stable: Whether five stretches of the run agree on the speed-up within 5 %; on the times, if there is none, and
            for the reference itself.
        quick: Whether it was a short run.
        cold_start_s: Process start to first action, in seconds, files in the page cache: the median of the starts.
        peak_memory_bytes: Largest resident memory of the variant's own process.
        threads: Threads inside an operation.
        p50_upper_ms: 99 % confidence bound above p50, and likewise p90_upper_ms and p95_upper_ms.
        p999_ms: p99.9, with p999_upper_ms above it.
        rounds: How many rounds the samples come from.
        disturbed_rounds: In how many of them something else took time; see ``benchmarks/measure/interference.py``.
        starts_ms: Median of each fresh start of the process; empty in version 0.2.0.
        cold_start_spread_s: Smallest and largest of the starts' times to the first action.
        gpu_memory_bytes: GPU memory of the variant's process; None where none is used or told.
        power_w: Mean power of processor and GPU in the variant's turns, idle parts included; None where not counted.
        energy_mj: Energy of an action, in millijoules: that power times the mean duration of a call.
        strict: Whether it was a long run.
        spin: Whether idle threads spun between calls; in version 0.2.0 they always did.
        baseline: What the speed-up is against, by row: the reference on the same device. Empty without a speed-up, and
            in version 0.2.0, where it was the reference.
        measured: When, as ISO 8601 in UTC; empty in version 0.2.0.
    """

    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p99_upper_ms: float | None
    max_ms: float
    speedup: float | None
    speedup_spread: tuple[float, float] | None
    samples: int
    stable: bool
    quick: bool
    cold_start_s: float | None
    peak_memory_bytes: int | None
    threads: int
    p50_upper_ms: float | None = None
    p90_upper_ms: float | None = None
    p95_upper_ms: float | None = None
    p999_ms: float | None = None
    p999_upper_ms: float | None = None
    rounds: int = 0
    disturbed_rounds: int = 0
    starts_ms: tuple[float, ...] = ()
    cold_start_spread_s: tuple[float, float] | None = None
    gpu_memory_bytes: int | None = None
    power_w: float | None = None
    energy_mj: float | None = None
    strict: bool = False
    spin: bool = True
    baseline: str = ""
    measured: str = ""

    @property
    def protocol(self) -> Protocol:
        """How much was measured."""
        return "strict" if self.strict else "quick" if self.quick else "default"

    @property
    def how(self) -> tuple[object, ...]:
        """How it was measured: newer figures replace those that were measured alike."""
        return self.protocol, self.threads, self.spin


@dataclass(frozen=True)
class LoopRecord:
    """How a variant did in the control loop of ``xfer bench``.

    Attributes:
        rate_hz: Ticks a second.
        deadline_ms: How long after its scheduled moment a tick's action may come, in milliseconds.
        ticks: How many ticks fell due.
        missed: How many of them acted after their deadline, or not at all.
        error: Why there are no ticks, or fewer, or empty.
        threads: Threads inside an operation; 0 in version 0.2.0.
        spin: Whether idle threads spun between ticks; in version 0.2.0 they always did.
        quick: Whether the bench was a short one.
        measured: When, as ISO 8601 in UTC; empty in version 0.2.0.
        late: What became of ticks that fell due while the loop was late: ``catch-up`` or ``drop``.
        dropped: How many ticks were dropped.
        slowest_ms: The largest latencies, the largest first: what other deadlines are held against.
        segments: In how many segments it was run.
        disturbed_segments: In how many of them something else took time.
        idle_cores: How many cores' time the process took while it waited for its next tick, or None.
    """

    rate_hz: float
    deadline_ms: float
    ticks: int
    missed: int
    error: str = ""
    threads: int = 0
    spin: bool = True
    quick: bool = False
    measured: str = ""
    late: str = "catch-up"
    dropped: int = 0
    slowest_ms: tuple[float, ...] = ()
    segments: int = 0
    disturbed_segments: int = 0
    idle_cores: float | None = None

    @property
    def how(self) -> tuple[object, ...]:
        """How it was run: a newer loop replaces one that was run alike."""
        return self.rate_hz, self.late, self.quick, self.threads, self.spin

    def missed_at(self, deadline_ms: float) -> tuple[int, int]:
        """Return how many ticks missed another deadline, at least and at most.

        The two are equal but where too few latencies were kept to tell.
        """
        if deadline_ms == self.deadline_ms:
            return self.missed, self.missed
        late = sum(latency > deadline_ms for latency in self.slowest_ms)
        least, most = late + self.dropped, self.ticks
        if late < len(self.slowest_ms) or len(self.slowest_ms) == self.ticks - self.dropped:
            return least, least
        # Whoever is too late for a long deadline is too late for a short one.
        return (max(least, self.missed), most) if deadline_ms < self.deadline_ms else (least, min(most, self.missed))


def strongest(latencies: tuple[Latency, ...]) -> Latency | None:
    """Return the figures of the strongest protocol, or None if there are none; it has one of each."""
    return max(latencies, key=lambda one: PROTOCOLS.index(one.protocol), default=None)
