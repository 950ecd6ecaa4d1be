"""The rows of a report: what was verified of each variant, beside what was measured of it just now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from benchmarks.latency import Contestant, Measurement, Protocol
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
        contestants: What is measured: the bundle's own variants, in Python and C++, and those of a whole backbone.
        provenance: The graph of the whole backbone, where that is measured.
        protocol: How much is measured.
    """

    bundle: Bundle
    names: Sequence[str]
    idle: Mapping[str, str]
    contestants: Sequence[Contestant]
    provenance: Provenance
    protocol: Protocol

    def figures(self, measurements: Mapping[str, Measurement]) -> dict[str, Latency | None]:
        """Return the figures of each contestant, or None where its process failed."""
        from benchmarks.stats.percentiles import summarise

        return {
            c.name: summarise(measurements[c.name], measurements.get(c.baseline), self.protocol)
            for c in self.contestants
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
        for contestant in self.contestants:
            if contestant.name not in self.names:
                rows.append(self._beside(contestant, measurements[contestant.name], figures[contestant.name]))
        return tuple(rows)

    def _beside(self, contestant: Contestant, measurement: Measurement, figures: Latency | None) -> dict[str, Any]:
        in_cpp, error = bool(contestant.worker), measurement.error
        what = f"{contestant.variant} in C++; xfer-verify says what it does" if in_cpp else self.provenance.run
        return {
            "variant": contestant.name,
            **msgspec.to_builtins(records.Verification("built")),
            "reason": f"not measured: {error}" if error else what,
            "size_bytes": Bundle(contestant.bundle).build(contestant.variant).size_bytes,
            **_plain(figures),
            "whole_backbone": not in_cpp,
        }


def _plain(figures: Latency | None) -> dict[str, Any]:
    return msgspec.to_builtins(figures) if figures else NO_LATENCY
