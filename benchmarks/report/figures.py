"""What the report works out from raw data: one small record a variant, for every form of the report alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.protocol import Measurement
from benchmarks.report.rows import Row
from benchmarks.stats import miss_rate
from benchmarks.stats.bootstrap import RewardSummary, summarize
from benchmarks.stats.miss_rate import Verdict
from benchmarks.stats.percentiles import percentile
from export.bundle.records import PROVEN


@dataclass(frozen=True)
class IdleFigures:
    """First actions after gaps of one length, in milliseconds.

    Attributes:
        median_ms: Their median.
        worst_ms: Their largest.
    """

    median_ms: float
    worst_ms: float


@dataclass(frozen=True)
class LoopFigures:
    """One variant's control loop; times in milliseconds, each from the tick's scheduled moment.

    Attributes:
        name: Name of its row.
        rate_hz: Ticks a second.
        deadline_ms: When a tick's action is due.
        ticks: How many ticks fell due.
        missed: How many of them acted after their deadline, or not at all.
        p50_ms: Median, or None without ticks.
        p99_ms: 99th percentile, or None below its sample floor.
        worst_ms: The latest action, or None without ticks.
        jitter_ms: Standard deviation, or None without ticks.
        after_idle: Seconds idle, as text, and the first actions after such gaps.
        error: Why there are no ticks, or fewer, or empty.
        verdict: Whether that proves that the deadline is kept: ``kept``, ``missed`` or ``not proven``; see
            ``benchmarks/stats/miss_rate.py``.
        miss_rate_upper: The 95 % bound above the rate of misses.
        more_ticks: How many more ticks, all in time, would prove it; None if none would, or the loop did not run.
        dropped: How many ticks were not acted on, since they fell due while the loop was late.
        idle_cores: How many cores' time the process took while it waited for its next tick, or None.
        segments: In how many segments it was run.
        disturbed: In how many of them something else took time.
    """

    name: str
    rate_hz: float
    deadline_ms: float
    ticks: int
    missed: int
    p50_ms: float | None
    p99_ms: float | None
    worst_ms: float | None
    jitter_ms: float | None
    after_idle: dict[str, IdleFigures]
    error: str
    verdict: Verdict = "not proven"
    miss_rate_upper: float = 1.0
    more_ticks: int | None = None
    dropped: int = 0
    idle_cores: float | None = None
    segments: int = 0
    disturbed: int = 0


def loop_figures(loop: ControlLoop, max_miss_rate: float) -> LoopFigures:
    """Return the figures of one variant's control loop, held against the largest acceptable rate of misses."""
    ticks = loop.latencies_ms
    judged = miss_rate.judge(loop.missed, loop.ticks, max_miss_rate) if loop.ticks and not loop.error else None
    return LoopFigures(
        name=loop.name,
        rate_hz=loop.rate_hz,
        deadline_ms=loop.deadline_ms,
        ticks=loop.ticks,
        missed=loop.missed,
        p50_ms=percentile(ticks, 0.5),
        p99_ms=percentile(ticks, 0.99),
        worst_ms=loop.worst_ms if ticks else None,
        jitter_ms=loop.jitter_ms if ticks else None,
        after_idle={
            gap: IdleFigures(float(np.median(times)), max(times)) for gap, times in loop.after_idle_ms.items() if times
        },
        error=loop.error,
        verdict=judged.verdict if judged else "not proven",
        miss_rate_upper=judged.upper if judged else 1.0,
        more_ticks=judged.more if judged else None,
        dropped=loop.dropped,
        idle_cores=loop.idle_cores,
        segments=len(loop.segments),
        disturbed=loop.disturbed,
    )


@dataclass(frozen=True)
class InterferenceFigures:
    """What else ran beside one variant, over all of its rounds.

    Attributes:
        name: Name of its row.
        rounds: How many rounds were watched.
        disturbed: In how many of them something else took time.
        others: Largest share of the cores' time that other processes took in a round, 0 to 1; see ``Interference``.
        steal: Largest share that the hypervisor gave to other machines, 0 to 1.
        frequency_mhz: Lowest and highest clock of the cores, or None where the system does not tell.
        gpu_clock_mhz: Lowest and highest clock of the GPU, or None where none ran or it does not tell.
    """

    name: str
    rounds: int
    disturbed: int
    others: float
    steal: float
    frequency_mhz: tuple[float, float] | None
    gpu_clock_mhz: tuple[float, float] | None


def interference_figures(measurement: Measurement) -> InterferenceFigures:
    """Return what disturbed one variant; at least one of its rounds was watched."""
    watched = measurement.disturbances
    return InterferenceFigures(
        name=measurement.name,
        rounds=len(watched),
        disturbed=sum(one.disturbed for one in watched),
        others=max(one.others for one in watched),
        steal=max(one.steal for one in watched),
        frequency_mhz=_range(one.frequency_mhz for one in watched),
        gpu_clock_mhz=_range(one.gpu_clock_mhz for one in watched),
    )


def _range(values: Iterable[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def reward_summaries(rows: Sequence[Row], reference: str) -> dict[str, RewardSummary]:
    """Return the returns of the reference and of each variant that was compared with it, by row.

    The reference's are those of every seed that some variant was compared on; a seed counts once.
    """
    compared = {row.variant: row.returns for row in rows if row.returns and row.variant != reference}
    if not compared:
        return {}
    by_seed = {seed: value for pairs in compared.values() for seed, value, _ in pairs}
    returns = {reference: [by_seed[seed] for seed in sorted(by_seed)]}
    returns |= {name: [own for _, _, own in pairs] for name, pairs in compared.items()}
    return {name: summarize(values) for name, values in returns.items()}


@dataclass(frozen=True)
class Point:
    """A variant that has both a latency and a change in reward.

    Attributes:
        row: Its row.
        p50_ms: Its median latency.
        change: Its change in mean return against the reference.
    """

    row: Row
    p50_ms: float
    change: float


def comparable(rows: Sequence[Row], reference: str) -> list[Point]:
    """Return the variants that have both a latency and a change in reward, the fastest first.

    The reference's own change is 0, where its verdict is one.
    """
    found = []
    for row in rows:
        change = 0.0 if row.variant == reference and row.status in PROVEN else row.reward_delta
        if row.p50_ms is not None and change is not None and not row.whole_backbone:
            found.append(Point(row, row.p50_ms, change))
    return sorted(found, key=lambda point: (point.p50_ms, -point.change))


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the verified or provisional points that no other one beats in both latency and reward, fastest first."""
    front: list[Point] = []
    best = -np.inf
    for point in points:
        if point.row.status in PROVEN and point.change > best:
            front.append(point)
            best = point.change
    return front
