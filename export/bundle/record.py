"""A record: what was verified and measured of one variant on one machine. Plain values; ``records.py`` keeps them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import msgspec

from export.bundle.manifest import Build

Status = Literal["verified", "provisional", "rejected", "built", "failed", "unavailable"]
Gate = Literal["", "fidelity", "numbers", "actions", "reward", "recordings", "trials"]
GATES: tuple[Gate, ...] = get_args(Gate)
PROVEN = ("verified", "provisional")
Protocol = Literal["quick", "default", "strict"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
"""The weaker first."""


@dataclass(frozen=True)
class Divergence:
    """Where a variant first chose another action than the reference: the first such pair in the order of seeds.

    Attributes:
        seed: Seed of the pair.
        step: Step of the episode, counted from 0.
        reference_action: The reference's action there, in the environment's units.
        variant_action: The variant's.
        margin: Regret of the variant's action by the reference's scores, as the actions gate counts it.
        picture: The observation of both at that moment, as PNG in base64; empty where the task has no image.
    """

    seed: int
    step: int
    reference_action: tuple[float, ...]
    variant_action: tuple[float, ...]
    margin: float
    picture: str = ""


@dataclass(frozen=True)
class Verification:
    """The verdict on one variant: see ``export/verification/``.

    Attributes:
        status: ``verified``, ``provisional``, ``rejected``; ``built`` if it could not be run here, ``failed`` if its
            runtime gave up, ``unavailable`` if there are no files.
        rung: The highest gate that was reached.
        reason: Which gate and which figure, or what is missing.
        max_abs_diff: Largest difference of a score from golden, after centering.
        tolerance: What that may be, or None where it is not judged.
        agreement: Share of observations on which variant and reference choose the same action.
        regret: Mean regret of the variant's actions by the reference's scores.
        observations: How many observations the actions gate looked at.
        pairs: Pairs of episodes with the same seeds.
        pairs_needed: How many more pairs a provisional variant needs, all clean; if it looks worse, like those so far.
        forked: Pairs in which the actions differed at some step.
        reward_mean: The variant's mean return.
        reward_delta: Its mean return minus the reference's, in the task's own units.
        reward_interval: One-sided 95 % bounds below and above of that difference, in which a pair counts at most as
            the whole scale.
        worst: The worst disagreements, as sentences.
        returns: (seed, the reference's return, the variant's return) of each pair, in the order of seeds; of trials,
            which have no seed, their number.
        divergence: Where the variant first chose another action than the reference, or None if it never did.
        seed_base: Seed of the first pair; None if there are no pairs.
        episodes: Recorded episodes that the recordings gate looked at.
        recordings_bound: 95 % bound above the variant's mean action loss in such episodes.
        agrees_on_recordings: Whether that proves, jointly with the other variants, that the loss is under its limit.
        trials_margin: Largest mean loss in trials that was allowed, in the unit of their returns.
        max_episode_steps: Steps after which the episodes of the pairs were truncated, or None.
    """

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
    strict: bool = False
    spin: bool = True
    baseline: str = ""
    measured: str = ""

    @property
    def protocol(self) -> Protocol:
        """How much was measured."""
        return "strict" if self.strict else "quick" if self.quick else "default"


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


@dataclass(frozen=True)
class Record:
    """What is known of one variant at one place on one machine.

    Attributes:
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE.
        files: Digest over the build's files.
        libraries: Versions of what ran it.
        verification: The verdict, if ``xfer verify`` ran.
        latency: The figures, if ``xfer bench`` ran: of the last bench's threads and spinning, those of the strongest
            protocol.
        loop: The last control loop with these, if one was run.
        reference: Digest over the files and libraries of the reference that the verdict compared it with; empty in
            records of version 0.2.0.
        latencies: The last figures of each protocol, number of threads and kind of waiting, the newest last.
        loops: Likewise the last control loops, of each rate and kind of late ticks too.
    """

    variant: str
    files: str
    libraries: dict[str, str]
    verification: Verification | None = None
    latency: Latency | None = None
    loop: LoopRecord | None = None
    reference: str = ""
    latencies: tuple[Latency, ...] = ()
    loops: tuple[LoopRecord, ...] = ()

    @property
    def all_latencies(self) -> tuple[Latency, ...]:
        """All figures, the newest last; version 0.2.0 kept one."""
        return self.latencies or ((self.latency,) if self.latency else ())

    @property
    def all_loops(self) -> tuple[LoopRecord, ...]:
        """All control loops, the newest last; version 0.2.0 kept one."""
        return self.loops or ((self.loop,) if self.loop else ())


def unjudged(build: Build) -> Verification:
    """Return what is known of a build that no gate has seen: what became of building it."""
    return Verification(cast(Status, build.status), reason=build.reason)


def as_row(variant: str, build: Build, record: Record | None) -> dict[str, Any]:
    """Return one variant as the plain values; unknown figures are None."""
    verification = (record and record.verification) or unjudged(build)
    # replace() sets every field: msgspec leaves out those that an older record lacks
    row: dict[str, Any] = {"variant": variant, **msgspec.to_builtins(replace(verification))}
    return {**row, "size_bytes": build.size_bytes}


def printed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as ``--json`` prints it: without the picture of a divergence, which is for a report."""
    if row["divergence"] is None:
        return row
    return {**row, "divergence": {key: value for key, value in row["divergence"].items() if key != "picture"}}
