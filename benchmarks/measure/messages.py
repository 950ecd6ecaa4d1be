"""What a benchmark and its worker processes say to each other: plain values, one line of JSON each."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Assignment:
    """What a worker runs.

    Attributes:
        bundle: Folder of the bundle.
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE.
        threads: Threads inside an operation.
        cores: Logical cores that the process is bound to; empty leaves it where it is.
        batch: Observations in one step.
    """

    bundle: str
    variant: str
    threads: int
    cores: tuple[int, ...] = ()
    batch: int = 1


@dataclass(frozen=True)
class Turn:
    """Call back to back until both floors are reached.

    Attributes:
        calls: Fewest timed calls.
        seconds: Shortest time spent in timed calls.
        lead_in: Fewest calls before the first timed one, which wake threads and caches after the idle time.
        recorded: Whether to rotate through the bundle's golden observations; else zeros are shown.
        lead_in_seconds: Shortest time before the first timed call: a processor's clock needs some to rise again.
    """

    calls: int
    seconds: float
    lead_in: int = 0
    recorded: bool = True
    lead_in_seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    """One line to a worker: exactly one of the two."""

    turn: Turn | None = None
    pace: Pace | None = None


@dataclass(frozen=True)
class Reply:
    """One answer: to being started, or to a request.

    Attributes:
        error: Why there is no answer, or empty.
        seconds: Duration of each timed call of a turn, in order.
        ticks: What a paced loop gave.
        peak_memory_bytes: Largest resident memory of this process so far.
        cores: Logical cores that the process may use.
        libraries: Versions of what runs the variant.
    """

    error: str = ""
    seconds: tuple[float, ...] = ()
    ticks: Ticks | None = None
    peak_memory_bytes: int | None = None
    cores: tuple[int, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """What is asked of a loop.

    Attributes:
        rate_hz: Ticks a second.
        seconds: How long.
        gaps: After the ticks: seconds idle, and how often to act once after them.
    """

    rate_hz: float
    seconds: float
    gaps: tuple[tuple[float, int], ...] = ()

    @property
    def ticks(self) -> int:
        """How many ticks there are, at least one."""
        return max(1, round(self.rate_hz * self.seconds))


@dataclass(frozen=True)
class Ticks:
    """What a loop gave, in seconds, nothing left out.

    Attributes:
        latencies: Of each tick, the moment of its action less the moment it was scheduled for.
        starts: Of each tick, the moment it began less the moment it was scheduled for.
        after_idle: Seconds idle, as text, and the latency of the first action after each such gap.
        inferred: Whether an inference fell on each tick.
    """

    latencies: tuple[float, ...] = ()
    starts: tuple[float, ...] = ()
    after_idle: dict[str, tuple[float, ...]] = field(default_factory=dict)
    inferred: tuple[bool, ...] = ()
