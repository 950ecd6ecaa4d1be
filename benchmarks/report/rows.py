"""The rows of a report: what was verified of each variant, beside what was measured of it just now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np

from benchmarks.measure import whole_backbone
from benchmarks.measure.protocol import Candidate, Measurement, Protocol
from benchmarks.stats.percentiles import MIN_SAMPLES, is_stable, percentile, speedups, upper_bound
from export.bundle.manifest import NOT_RUN, Build, Provenance
from export.bundle.reader import Bundle
from export.bundle.records import Divergence, Gate, Latency, Record, Status, Verification, unjudged


@dataclass(frozen=True)
class Row:
    """One variant: the attributes of its ``Verification``, and those of its ``Latency``, None where not measured.

    Attributes:
        variant: Name of the row.
        size_bytes: Size of its files on disk.
        whole_backbone: Whether this is the whole backbone, timed beside the policy's own graph.
        execute: How many actions are acted of one inference. All times are of an inference; it falls on one tick of so
            many, so the slowest tick takes ``max_ms``.
        amortized_ms: The median time of an inference, shared by these actions.
    """

    variant: str
    status: Status
    rung: Gate = ""
    reason: str = ""
    max_abs_diff: float | None = None
    tolerance: float | None = None
    agreement: float | None = None
    regret: float | None = None
    observations: int = 0
    pairs: int = 0
    pairs_needed: int = 0
    forked: int = 0
    reward_mean: float | None = None
    reward_delta: float | None = None
    reward_interval: tuple[float, float] | None = None
    worst: tuple[str, ...] = ()
    returns: tuple[tuple[int, float, float], ...] = ()
    divergence: Divergence | None = None
    seed_base: int | None = None
    episodes: int = 0
    recordings_bound: float | None = None
    agrees_on_recordings: bool = False
    trials_margin: float | None = None
    max_episode_steps: int | None = None
    size_bytes: int = 0
    p50_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p99_upper_ms: float | None = None
    max_ms: float | None = None
    speedup: float | None = None
    speedup_spread: tuple[float, float] | None = None
    samples: int | None = None
    stable: bool | None = None
    quick: bool | None = None
    cold_start_s: float | None = None
    peak_memory_bytes: int | None = None
    threads: int | None = None
    p50_upper_ms: float | None = None
    p90_upper_ms: float | None = None
    p95_upper_ms: float | None = None
    p999_ms: float | None = None
    p999_upper_ms: float | None = None
    rounds: int | None = None
    disturbed_rounds: int | None = None
    starts_ms: tuple[float, ...] = ()
    cold_start_spread_s: tuple[float, float] | None = None
    whole_backbone: bool = False
    execute: int = 1
    amortized_ms: float | None = None

    @classmethod
    def of(
        cls, variant: str, verification: Verification, size_bytes: int, latency: Latency | None, *, whole: bool = False
    ) -> Row:
        """Return the row of a verdict and a latency."""
        verdict = {field.name: getattr(verification, field.name) for field in fields(Verification)}
        figures = {field.name: getattr(latency, field.name) for field in fields(Latency)} if latency else {}
        return cls(variant, **verdict, size_bytes=size_bytes, **figures, whole_backbone=whole)

    def plain(self, *, picture: bool = True) -> dict[str, Any]:
        """Return the row as plain values, every key of it.

        Args:
            picture: Whether to keep the picture of a divergence, which is for a report.
        """
        row: dict[str, Any] = msgspec.to_builtins(asdict(self))
        if row["divergence"] is not None and not picture:
            del row["divergence"]["picture"]
        return row


@dataclass(frozen=True)
class RowBuilder:
    """Writes the rows of a bench.

    Attributes:
        builds: The bundle's builds.
        known: What is recorded of its variants on this machine.
        names: The variants that have a row, in order.
        cannot_run: Those of them that cannot run here, and why.
        candidates: What is measured: the bundle's own variants, in Python and C++, and those of a whole backbone.
        provenance: The graph of the whole backbone, where that is measured.
        protocol: How much is measured.
        execute: How many actions are acted of one inference.
    """

    builds: Mapping[str, Build]
    known: Mapping[str, Record]
    names: Sequence[str]
    cannot_run: Mapping[str, str]
    candidates: Sequence[Candidate]
    provenance: Provenance
    protocol: Protocol
    execute: int = 1

    def figures(self, measurements: Mapping[str, Measurement]) -> dict[str, Latency | None]:
        """Return the figures of each candidate, or None where its process failed."""
        found = {}
        for c in self.candidates:
            protocol = whole_backbone.short(self.protocol) if self.is_whole(c) else self.protocol
            found[c.name] = summarize(measurements[c.name], measurements.get(c.baseline), protocol)
        return found

    def is_whole(self, candidate: Candidate) -> bool:
        """Whether a candidate is the whole backbone's."""
        return candidate.name not in self.names and not candidate.worker

    def all(self, measurements: Mapping[str, Measurement]) -> tuple[Row, ...]:
        """Return all rows, the bundle's own first."""
        figures = self.figures(measurements)
        rows = [self._own(name, measurements.get(name), figures.get(name)) for name in self.names]
        others = [candidate for candidate in self.candidates if candidate.name not in self.names]
        rows += [self._other(c, measurements[c.name], figures[c.name]) for c in others]
        return tuple(self._amortized(row) for row in rows)

    def _amortized(self, row: Row) -> Row:
        each = None if row.p50_ms is None else row.p50_ms / self.execute
        return replace(row, execute=self.execute, amortized_ms=each)

    def _own(self, name: str, measurement: Measurement | None, latency: Latency | None) -> Row:
        build = self.builds[name.partition("@")[0]]
        row = Row.of(name, verdict(build, self.known.get(name)), build.size_bytes, latency)
        if name in self.cannot_run and row.status == "built":
            return replace(row, reason=build.not_run(self.cannot_run[name]))
        if measurement is not None and measurement.error:
            # Of a variant that no gate has seen, that is all that is known.
            failed = row.status == "built" and not measurement.error.startswith(NOT_RUN)
            return replace(row, status="failed" if failed else row.status, reason=f"not measured: {measurement.error}")
        return row

    def _other(self, candidate: Candidate, measurement: Measurement, latency: Latency | None) -> Row:
        in_cpp, error = not self.is_whole(candidate), measurement.error
        what = f"{candidate.variant} in C++; xfer-verify says what it does" if in_cpp else self.provenance.run
        reason = f"not measured: {error}" if error else what
        size = Bundle(candidate.bundle).build(candidate.variant).size_bytes
        return Row.of(candidate.name, Verification("built", reason=reason), size, latency, whole=not in_cpp)


def verdict(build: Build, record: Record | None) -> Verification:
    """Return the verdict on a build: the recorded one, or what building it gave."""
    return (record and record.verification) or unjudged(build)


def summarize(measurement: Measurement, baseline: Measurement | None, protocol: Protocol) -> Latency | None:
    """Return the figures that a record keeps, times in milliseconds.

    Args:
        measurement: Of the variant.
        baseline: Of the reference in the same rounds, or None where it cannot run here.
        protocol: What was asked of both.

    Returns:
        None if the variant's process failed: half a measurement is not published.
    """
    if measurement.error or not measurement.rounds:
        return None
    samples = [sample for window in measurement.rounds for sample in window]
    ratios = speedups(baseline.rounds, measurement.rounds) if baseline and not baseline.error else []
    turns, startups = measurement.by_turn(), measurement.cold_starts_s
    # Against itself, the reference would be as stable as a clock that has stopped.
    beside = None if baseline is measurement or not ratios or baseline is None else baseline.rounds
    p50, p90, p95, p99, p999 = (_milliseconds(percentile(samples, share)) for share in MIN_SAMPLES)
    b50, b90, b95, b99, b999 = (_milliseconds(upper_bound(turns, share)) for share in MIN_SAMPLES)
    return Latency(
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        p99_upper_ms=b99,
        max_ms=1000 * max(samples),
        speedup=float(np.median(ratios)) if ratios else None,
        speedup_spread=(min(ratios), max(ratios)) if ratios else None,
        samples=len(samples),
        stable=is_stable(measurement.rounds, beside),
        quick=protocol.quick,
        cold_start_s=measurement.cold_start_s,
        peak_memory_bytes=measurement.peak_memory_bytes,
        threads=measurement.threads,
        p50_upper_ms=b50,
        p90_upper_ms=b90,
        p95_upper_ms=b95,
        p999_ms=p999,
        p999_upper_ms=b999,
        rounds=len(measurement.rounds),
        disturbed_rounds=sum(disturbance.disturbed for disturbance in measurement.disturbances),
        starts_ms=tuple(1000 * median for median in measurement.start_medians()),
        cold_start_spread_s=(min(startups), max(startups)) if startups else None,
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else 1000 * seconds
