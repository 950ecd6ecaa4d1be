"""The rows of a report: what was verified of each variant, beside what was measured of it just now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np

from benchmarks.measure.protocol import Candidate, Measurement, Protocol
from benchmarks.stats.percentiles import FLOORS, is_stable, percentile, speedups, upper_bound
from export.bundle import records
from export.bundle.manifest import Provenance
from export.bundle.reader import Bundle
from export.bundle.records import Latency

NO_LATENCY = {field.name: None for field in fields(Latency)}


@dataclass(frozen=True)
class Rows:
    """What all rows need to be written.

    Attributes:
        bundle: The bundle that is measured.
        names: Its variants that have a row, in order.
        idle: Those of them that cannot run here, and why.
        candidates: What is measured: the bundle's own variants, in Python and C++, and those of a whole backbone.
        provenance: The graph of the whole backbone, where that is measured.
        protocol: How much is measured.
    """

    bundle: Bundle
    names: Sequence[str]
    idle: Mapping[str, str]
    candidates: Sequence[Candidate]
    provenance: Provenance
    protocol: Protocol

    def figures(self, measurements: Mapping[str, Measurement]) -> dict[str, Latency | None]:
        """Return the figures of each candidate, or None where its process failed."""
        from benchmarks.report.rows import summarize

        return {
            c.name: summarize(measurements[c.name], measurements.get(c.baseline), self.protocol)
            for c in self.candidates
        }

    def all(self, measurements: Mapping[str, Measurement]) -> tuple[dict[str, Any], ...]:
        """Return the rows as plain values: the bundle's own first."""
        figures = self.figures(measurements)
        known = records.load(self.bundle)
        rows = []
        for name in self.names:
            build = self.bundle.builds[name.partition("@")[0]]
            row = {**records.as_row(name, build, known.get(name)), **_plain(figures.get(name))}
            if name in self.idle and row["status"] == "built":
                row["reason"] = build.not_run(self.idle[name])
            elif name in measurements and measurements[name].error:
                row["reason"] = f"not measured: {measurements[name].error}"
            rows.append({**row, "whole_backbone": False})
        for candidate in self.candidates:
            if candidate.name not in self.names:
                rows.append(self._beside(candidate, measurements[candidate.name], figures[candidate.name]))
        return tuple(rows)

    def _beside(self, candidate: Candidate, measurement: Measurement, figures: Latency | None) -> dict[str, Any]:
        in_cpp, error = bool(candidate.worker), measurement.error
        what = f"{candidate.variant} in C++; xfer-verify says what it does" if in_cpp else self.provenance.run
        return {
            "variant": candidate.name,
            **msgspec.to_builtins(records.Verification("built")),
            "reason": f"not measured: {error}" if error else what,
            "size_bytes": Bundle(candidate.bundle).build(candidate.variant).size_bytes,
            **_plain(figures),
            "whole_backbone": not in_cpp,
        }


def _plain(figures: Latency | None) -> dict[str, Any]:
    return msgspec.to_builtins(figures) if figures else NO_LATENCY


def summarize(measurement: Measurement, baseline: Measurement | None, protocol: Protocol) -> Latency | None:
    """Return the figures that a record keeps, times in milliseconds.

    Args:
        measurement: Of the variant.
        baseline: Of eager in the same rounds, or None where eager cannot run here.
        protocol: What was asked of both.

    Returns:
        None if the variant's process failed: half a measurement is not published.
    """
    if measurement.error or not measurement.rounds:
        return None
    samples = [sample for window in measurement.rounds for sample in window]
    ratios = speedups(baseline.rounds, measurement.rounds) if baseline and not baseline.error else []
    p50, p90, p95, p99, p999 = (_milliseconds(percentile(samples, share)) for share in FLOORS)
    b50, b90, b95, b99, b999 = (_milliseconds(upper_bound(samples, share)) for share in FLOORS)
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
        stable=is_stable(measurement.rounds, baseline.rounds if ratios and baseline else None),
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
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else 1000 * seconds


Row = Mapping[str, Any]
