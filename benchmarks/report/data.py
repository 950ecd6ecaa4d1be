"""What a report says, as data."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.measure.batch_sweep import BatchPoint
from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.interference import OTHERS_LIMIT, STEAL_LIMIT
from benchmarks.measure.protocol import Measurement, Protocol
from benchmarks.report import table
from benchmarks.report.conclusion import Findings, conclude
from benchmarks.report.table import EXPLANATION
from benchmarks.stats.percentiles import FLOORS, TOLERANCE, WINDOWS
from export.bundle.machine import Machine
from export.bundle.manifest import Provenance
from xfer.spec import RewardScale

SCHEMA = (1, 1)


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Times of single calls (``measurements.rounds``) are in seconds; a key that ends in ``_ms`` is in milliseconds.

    Attributes:
        machine: Where it was measured.
        measured: When, as ISO 8601 in UTC.
        command: The command that repeats it.
        task: Name of the policy's task.
        control_hz: The task's control rate, in Hz.
        reward: The scale of returns, or None.
        provenances: The graph that was timed, and the whole backbone's if that was timed too.
        protocol: How much was measured.
        notes: What else a reader should know.
        rows: What ``--json`` prints, one mapping a variant.
        measurements: The raw samples.
        loops: The control loop of each variant, where one was run.
        sweep: Throughput and latency at each batch size, where that was measured.
        partial: Why the report is not whole, or empty.
        bundle: The bundle that was measured, as the user named it; its verification is repeated from it.
    """

    machine: Machine
    measured: str
    command: str
    task: str
    control_hz: float
    reward: RewardScale | None
    provenances: tuple[Provenance, ...]
    protocol: Protocol
    notes: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    measurements: tuple[Measurement, ...]
    loops: tuple[ControlLoop, ...] = ()
    sweep: tuple[BatchPoint, ...] = ()
    partial: str = ""
    bundle: str = ""

    @property
    def explanation(self) -> str:
        """How it was measured, in a paragraph."""
        protocol = self.protocol
        return EXPLANATION.format(
            rounds=protocol.rounds,
            passes=protocol.passes,
            lead_in=protocol.lead_in_calls,
            calls=f"{protocol.calls:,}",
            seconds=protocol.seconds,
            warmup_calls=protocol.warmup_calls,
            warmup_seconds=protocol.warmup_seconds,
            p99=FLOORS[0.99],
            p999=FLOORS[0.999],
            windows=min(WINDOWS, protocol.rounds),
            tolerance=table.share(TOLERANCE),
            others=table.share(OTHERS_LIMIT),
            steal=table.share(STEAL_LIMIT),
        )

    @property
    def machine_line(self) -> str:
        """Processor, memory, system, threads."""
        cores = next((m.cores for m in self.measurements if m.cores), ())
        return table.machine_line(self.machine, self.protocol.threads, cores)

    @property
    def graph_lines(self) -> list[str]:
        """The graphs that were timed."""
        return [table.graph_line(provenance) for provenance in self.provenances]

    @property
    def commands(self) -> list[str]:
        """What repeats it: the verification and the measurement."""
        verify = [shlex.join(["xfer", "verify", self.bundle, "--full"])] if self.bundle else []
        return [*verify, self.command]

    @cached_property
    def findings(self) -> Findings:
        """What follows from all of it; worked out once."""
        return conclude(self)

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """Each variant's reason for its status, where there is one."""
        return [(row["variant"], row["reason"]) for row in self.rows if row["reason"]]
