"""What is known of each variant: gathered from a report's rows, or from the records in a bundle.

A report knows what it measured, and ``xfer recommend`` what benches left in the bundle. Variants are held against each
other under the same ``Conditions``, by default those of the last bench: its threads, and whether idle threads spun. Of
several benches under these the strongest protocol counts; of control loops, all at one rate are handed on. What follows
from it, ``decision.py`` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure.control_loop import ControlLoop
from benchmarks.report.rows import Row, verdict
from export.bundle import records
from export.bundle.manifest import Build
from export.bundle.precedence import strongest
from export.bundle.reader import Bundle, why_not
from export.bundle.record import Latency, LoopRecord, Protocol, Record, Status

SLOWEST = 0.02
"""Share of a loop's latencies that a record keeps, at least 100 of them: what other deadlines are held against."""


@dataclass(frozen=True)
class Conditions:
    """Under which conditions variants are held against each other; None: those of the last bench.

    Attributes:
        threads: Threads inside an operation.
        spin: Whether idle threads spin between calls.
        rate_hz: Ticks a second of the control loop.
    """

    threads: int | None = None
    spin: bool | None = None
    rate_hz: float | None = None

    def meant(self, one: Latency | LoopRecord) -> bool:
        """Whether something was measured with these threads and this spinning; loops of 0.2.0 do not name theirs."""
        return self.threads in (None, one.threads or self.threads) and self.spin in (None, one.spin)

    def __str__(self) -> str:
        """Return threads and spinning in words.

        Example:
            >>> print(Conditions(2, False))
            2 threads that do not spin
        """
        threads = "the threads" if self.threads is None else f"{self.threads} thread{'s' * (self.threads != 1)}"
        one = self.threads == 1
        return (
            f"{threads} that {'spins' if one else 'spin'}" if self.spin else f"{threads} that do{'es' * one} not spin"
        )


@dataclass(frozen=True)
class Facts:
    """What is known of one variant on this machine.

    Attributes:
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE.
        status: Its verdict here, or what building it gave.
        reason: The reason for that.
        reward_delta: Its mean return minus the reference's, or None.
        reward_interval: One-sided 95 % bounds of that difference, or None.
        p50_ms: Its median latency, or None if it was not measured.
        p99_upper_ms: The 99 % bound above its p99, or None below the sample floor.
        samples: Number of timed calls.
        speedup: How many times as fast as the reference it is, or None.
        loops: Its control loops at one rate, the newest first.
        cannot_run: Why it cannot run here, or empty.
        elsewhere: Whether only other machines know it.
        agrees_on_recordings: Whether it was shown to act as the reference does in recorded episodes.
        recordings_bound: The 95 % bound above its mean action loss there, or None.
        trials_margin: By which margin it was judged in trials, in their unit, or None.
        starts_ms: Its median latency in each start of its process; empty where starts were not counted.
        conditions: With which threads and spinning it was measured, or would have to be.
        protocol: How much was measured back to back.
        measured: When, as ISO 8601 in UTC, or empty.
        stable: Whether its speed-up was the same throughout, or None if it was not measured.
        rounds: How many rounds there were, and in how many of them something else took time (``disturbed_rounds``).
    """

    variant: str
    status: Status
    reason: str = ""
    reward_delta: float | None = None
    reward_interval: tuple[float, float] | None = None
    p50_ms: float | None = None
    p99_upper_ms: float | None = None
    samples: int = 0
    speedup: float | None = None
    loops: tuple[LoopRecord, ...] = ()
    cannot_run: str = ""
    elsewhere: bool = False
    agrees_on_recordings: bool = False
    recordings_bound: float | None = None
    trials_margin: float | None = None
    starts_ms: tuple[float, ...] = ()
    conditions: Conditions = Conditions()
    protocol: Protocol = "default"
    measured: str = ""
    stable: bool | None = None
    rounds: int = 0
    disturbed_rounds: int = 0


def of_rows(rows: Sequence[Row], loops: Sequence[ControlLoop]) -> list[Facts]:
    """Return the facts of a report; the whole backbone, which is timed for comparison, is left out."""
    by_name = {loop.name: loop_record(loop) for loop in loops}
    return [
        Facts(
            variant=row.variant,
            status=row.status,
            reason=row.reason,
            reward_delta=row.reward_delta,
            reward_interval=row.reward_interval,
            p50_ms=row.p50_ms,
            p99_upper_ms=row.p99_upper_ms,
            samples=row.samples or 0,
            speedup=row.speedup,
            loops=(by_name[row.variant],) if row.variant in by_name else (),
            agrees_on_recordings=row.agrees_on_recordings,
            recordings_bound=row.recordings_bound,
            trials_margin=row.trials_margin,
            starts_ms=row.starts_ms,
            conditions=Conditions(row.threads, row.spin),
            protocol="strict" if row.strict else "quick" if row.quick else "default",
            stable=row.stable,
            rounds=row.rounds or 0,
            disturbed_rounds=row.disturbed_rounds or 0,
        )
        for row in rows
        if not row.whole_backbone
    ]


def of_bundle(bundle: Bundle, asked: Conditions = Conditions()) -> list[Facts]:
    """Return what this machine's records say of every build, and of every other variant that has a record.

    Args:
        bundle: The bundle.
        asked: Under which conditions the variants are held against each other.

    Raises:
        BundleError: If the records are damaged.
    """
    known = records.load(bundle)
    elsewhere = {name for machine in records.inherited(bundle) for name in machine.records}
    names = dict.fromkeys([*bundle.builds, *known])
    cannot_run = {name: reason for name in names if (reason := why_not(bundle, name)) is not None}
    return of_records(bundle.builds, known, cannot_run, elsewhere, asked)


def of_records(
    builds: Mapping[str, Build],
    known: Mapping[str, Record],
    cannot_run: Mapping[str, str],
    elsewhere: set[str] | frozenset[str] = frozenset(),
    asked: Conditions = Conditions(),
) -> list[Facts]:
    """Return the facts of records.

    Args:
        builds: The bundle's builds.
        known: This machine's records, by variant.
        cannot_run: The variants that cannot run here, and why.
        elsewhere: The variants that other machines have a record of.
        asked: Under which conditions they are held against each other.
    """
    found = []
    conditions = last_conditions(known.values(), asked)
    for name in dict.fromkeys([*builds, *known]):
        build, record = builds[name.partition("@")[0]], known.get(name)
        judged = verdict(build, record)
        latency = strongest(tuple(filter(conditions.meant, record.all_latencies))) if record else None
        paced_ones = tuple(filter(conditions.meant, record.all_loops)) if record else ()
        found.append(
            Facts(
                variant=name,
                status=judged.status,
                reason=judged.reason,
                reward_delta=judged.reward_delta,
                reward_interval=judged.reward_interval,
                p50_ms=latency.p50_ms if latency else None,
                p99_upper_ms=latency.p99_upper_ms if latency else None,
                samples=latency.samples if latency else 0,
                speedup=latency.speedup if latency else None,
                loops=_at_one_rate(paced_ones, conditions.rate_hz),
                cannot_run=build.not_run(cannot_run[name]) if name in cannot_run else "",
                elsewhere=record is None and name in elsewhere,
                agrees_on_recordings=judged.agrees_on_recordings,
                recordings_bound=judged.recordings_bound,
                trials_margin=judged.trials_margin,
                starts_ms=latency.starts_ms if latency else (),
                conditions=conditions,
                protocol=latency.protocol if latency else "default",
                measured=latency.measured if latency else "",
                stable=latency.stable if latency else None,
                rounds=latency.rounds if latency else 0,
                disturbed_rounds=latency.disturbed_rounds if latency else 0,
            )
        )
    return found


def last_conditions(known: Iterable[Record], asked: Conditions) -> Conditions:
    """Return the conditions that were asked for; what was left open is as in the last bench that fits them."""
    fitting = [one for record in known for one in record.all_latencies if asked.meant(one)]
    last = max(fitting, key=lambda one: one.measured, default=None)
    return asked if last is None else Conditions(last.threads, last.spin, asked.rate_hz)


def _at_one_rate(loops: tuple[LoopRecord, ...], rate_hz: float | None) -> tuple[LoopRecord, ...]:
    """Return the loops at a rate, or at that of the last one, the newest first."""
    newest = loops[::-1]
    wanted = rate_hz if rate_hz is not None else next((loop.rate_hz for loop in newest), None)
    return tuple(loop for loop in newest if loop.rate_hz == wanted)


def loop_record(loop: ControlLoop, measured: str = "") -> LoopRecord:
    """Return what a record keeps of a control loop that was run at a moment, ISO 8601 in UTC."""
    slowest = sorted(loop.latencies_ms, reverse=True)[: max(100, math.ceil(SLOWEST * loop.ticks))]
    return LoopRecord(
        rate_hz=loop.rate_hz,
        deadline_ms=loop.deadline_ms,
        ticks=loop.ticks,
        missed=loop.missed,
        error=loop.error,
        threads=loop.threads,
        spin=loop.spin,
        quick=loop.quick,
        measured=measured,
        late=loop.late,
        dropped=loop.dropped,
        slowest_ms=tuple(slowest),
        segments=len(loop.segments),
        disturbed_segments=loop.disturbed,
        idle_cores=loop.idle_cores,
    )
