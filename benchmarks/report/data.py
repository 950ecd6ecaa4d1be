"""What a report says, as data. Whatever draws it or concludes from it imports this, never the other way round."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from benchmarks.measure.alone.peak import Peak
from benchmarks.measure.alone.profile import Profile
from benchmarks.measure.alone.soak import Soak
from benchmarks.measure.batch_sweep import BatchPoint
from benchmarks.measure.conditions import Condition
from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.protocol import Measurement, Protocol
from benchmarks.report.decision import Limits
from benchmarks.report.rows import Row
from export.bundle.machine import Machine
from export.bundle.manifest import Provenance
from xfer.spec import RewardScale

SCHEMA = (1, 2)


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Times of single calls (``measurements.rounds``) are in seconds; a key that ends in ``_ms`` is in milliseconds.

    Attributes:
        machine: Where it was measured.
        measured: When, as ISO 8601 in UTC.
        command: The command that repeats it; empty if it was measured from Python.
        task: Name of the policy's task.
        control_hz: The task's control rate, in Hz.
        reward: The scale of returns, or None.
        provenances: The graph that was timed, and the whole backbone's if that was timed too.
        protocol: How much was measured.
        notes: What else a reader should know.
        rows: One a variant.
        measurements: The raw samples.
        loops: The control loop of each variant, where one was run.
        sweep: Throughput and latency at each batch size, where that was measured.
        partial: Why the report is not whole, or empty.
        bundle: The bundle that was measured, as the user named it; its verification is repeated from it.
        limits: What a variant must keep to be shipped.
        reference: The variant that the others are compared with.
        kernel: The raw samples of the reference kernel, which took its turns in the same rounds; None in version 0.2.0.
        conditions: What about the machine moves latencies, as it was before the first round.
        peaks: The most multiply-accumulates in a second that the machine does; empty where that could not be measured.
        profile: Where the time of one variant goes, where that was asked for.
        soak: How one variant did for minutes, where that was asked for.
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
    rows: tuple[Row, ...]
    measurements: tuple[Measurement, ...]
    loops: tuple[ControlLoop, ...] = ()
    sweep: tuple[BatchPoint, ...] = ()
    partial: str = ""
    bundle: str = ""
    limits: Limits = field(default_factory=Limits)
    reference: str = "eager-fp32"
    kernel: Measurement | None = None
    conditions: tuple[Condition, ...] = ()
    peaks: tuple[Peak, ...] = ()
    profile: Profile | None = None
    soak: Soak | None = None

    @property
    def commands(self) -> list[str]:
        """What repeats it: the verification, the measurement, and the recommendation under the same limits."""
        if not self.bundle:
            return [self.command] if self.command else []
        verify = shlex.join(["xfer", "verify", self.bundle, "--full"])
        recommend = shlex.join(["xfer", "recommend", self.bundle, *self.limits.options()])
        return [verify, *filter(None, [self.command]), recommend]
