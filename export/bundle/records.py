"""Records: what was verified and measured, on which machine. They lie beside the builds, and may change.

The same int8 file can act differently on a processor without VNNI, so a verdict counts only on machines of the kind
that it was found on, and a latency only on the very machine, both with the library versions, execution provider and
device that they were found with. A bundle that is copied brings its records along; on another machine they are
*inherited*, and ``xfer recommend`` ignores them. Version 0.2.0 named machines of a kind alike: of its records verdicts
alone count.

The records of a bundle that cannot be written to go to a folder of their own (``Bundle.records``, ``--records DIR``),
laid out like ``records/``. What the bundle brings is then read too, and what is newer counts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import msgspec

from export import targets
from export.bundle import access
from export.bundle.machine import Machine, this_machine
from export.bundle.manifest import RECORDS, Build
from export.bundle.reader import Bundle
from export.targets import Variant
from xfer.errors import BundleError
from xfer.files import from_json, to_json, write_atomically

T = TypeVar("T")

POLICY = ".policy"
"""File in a folder of records that names whose they are."""

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


@dataclass(frozen=True)
class MachineRecords:
    """One file in ``records/``."""

    machine: Machine
    records: dict[str, Record] = field(default_factory=dict)


def files_digest(build: Build) -> str:
    """One SHA-256 that stands for all files of a build."""
    return hashlib.sha256(to_json(dict(sorted(build.files.items())))).hexdigest()


def facts(bundle: Bundle, variant: str) -> tuple[str, dict[str, str]]:
    """Return what how a variant acts depends on, on one machine: the digest over its files, and its libraries.

    Raises:
        BundleError: If it was not built.
    """
    return files_digest(bundle.build(variant)), targets.load(Variant.parse(variant).target).libraries()


def encoded(value: T, kind: type[T]) -> bytes:
    """Return a value as JSON that can be read again.

    Raises:
        BundleError: If it cannot: JSON has no NaN and no infinity.
    """
    data = to_json(value)
    try:
        from_json(data, kind)
    except msgspec.DecodeError as error:
        raise BundleError(f"A figure that is not finite was not written to the records: {error}.") from error
    return data


def load(bundle: Bundle, machine: Machine | None = None) -> dict[str, Record]:
    """Return what counts on this machine by variant, if files and library versions are today's: see ``_known``.

    Raises:
        BundleError: If a file is damaged.
    """
    records = _known(bundle, machine or this_machine())
    return {name: record for name, record in records.items() if _holds(bundle, record)}


def of_this_machine(bundle: Bundle) -> dict[str, Record]:
    """Return the same, also of files or library versions that are no longer today's.

    Raises:
        BundleError: If a file is damaged.
    """
    return _known(bundle, this_machine())


def inherited(bundle: Bundle) -> list[MachineRecords]:
    """Return the records of other machines; the verdicts of those of this kind count here too."""
    return _others(bundle, this_machine())


def _known(bundle: Bundle, machine: Machine) -> dict[str, Record]:
    """Return a machine's own records, with the verdicts of all machines of its kind."""
    known = dict(_read(bundle, machine).records)
    for other in _others(bundle, machine):
        if other.machine.kind == machine.kind:
            for name, theirs in other.records.items():
                if theirs.verification is not None:
                    verdict = without_figures(theirs)
                    known[name] = _joined(bundle, known[name], verdict) if name in known else verdict
    return known


def _joined(bundle: Bundle, ours: Record, theirs: Record) -> Record:
    """Give a record the verdict of another machine of its kind, where that is on the same files and stronger."""

    def subject(record: Record) -> tuple[object, ...]:
        return record.files, record.libraries, record.reference

    if ours.verification is None and subject(ours)[:2] == subject(theirs)[:2]:
        return replace(ours, verification=theirs.verification, reference=theirs.reference)
    if ours.verification is None or theirs.verification is None or subject(ours) != subject(theirs):
        return theirs if _holds(bundle, theirs) and not _holds(bundle, ours) else ours
    first, second = ours.verification, theirs.verification
    if second.status == "rejected":  # as if it had been first, so that what looked as closely overturns it
        first, second = second, first
    return replace(ours, verification=stronger(first, second))


def folders(bundle: Bundle) -> list[Path]:
    """Return where a bundle's records are read from; what is in a later folder is newer.

    Raises:
        BundleError: If a folder of records has those of another policy.
    """
    if bundle.records is None:
        return [bundle.path / RECORDS]
    owner, own = bundle.records / POLICY, bundle.manifest.provenance.weights.encode()
    with access.writable(bundle.records):
        if owner.exists() and owner.read_bytes() != own:
            raise BundleError(f"{bundle.records} has records of another policy. Choose another folder: --records DIR")
    return [bundle.path / RECORDS, bundle.records]


@contextmanager
def writing(bundle: Bundle, name: str) -> Iterator[Path]:
    """Hold the lock of a bundle's records, and give the path of one of them, whose folder is there.

    Args:
        bundle: The bundle.
        name: The record's file, relative to their folder.

    Raises:
        BundleError: If it cannot be written to, or a symbolic link is in the way.
    """
    home, advice = _home(bundle)
    with access.locked(home, advice), access.writable(home, advice):
        path = access.within(home, name if bundle.records else f"{RECORDS}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if bundle.records and not access.within(home, POLICY).exists():
            write_atomically(home / POLICY, bundle.manifest.provenance.weights.encode())
        yield path


def check_writable(bundle: Bundle) -> None:
    """Find out whether a bundle's records can be written, before the work that gives them.

    Raises:
        BundleError: If not, with what to do.
    """
    home, advice = _home(bundle)
    with access.locked(home, advice), access.writable(home, advice):
        for name in (".", "pairs") if bundle.records else (".", RECORDS, f"{RECORDS}/pairs"):
            folder = access.within(home, name)
            if folder.exists():
                tempfile.TemporaryFile(dir=folder).close()


def _home(bundle: Bundle) -> tuple[Path, str]:
    """Return the folder whose lock is held while records are written, and what to do if that cannot be."""
    if bundle.records is None:
        return bundle.path, "If it is read-only, name a folder that its records go to: --records DIR"
    folders(bundle)  # those of another policy are refused
    advice = "Choose another folder: --records DIR"
    with access.writable(bundle.records, advice):
        bundle.records.mkdir(parents=True, exist_ok=True)
    return bundle.records, advice


def save(
    bundle: Bundle,
    variant: str,
    *,
    verification: Verification | None = None,
    latency: Latency | None = None,
    loop: LoopRecord | None = None,
    measured: bool = False,
) -> Verification | None:
    """Keep a verdict or a measurement, leaving the other as it was; of unchanged files, the stronger verdict is kept.

    Args:
        bundle: The bundle.
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE.
        verification: The verdict, if it is new.
        latency: The figures, if they are new; those of other protocols, threads or spinning stay: see ``with_figures``.
        loop: The control loop of the same bench, if it ran one.
        measured: Whether a bench measured the variant just now; without ``latency`` it failed, and older figures go.

    Returns:
        The verdict that the record has now.

    Raises:
        BundleError: If the bundle cannot be written to.
    """
    machine = this_machine()
    build = bundle.builds[variant.partition("@")[0]]
    fresh = Record(variant, files_digest(build), targets.load(Variant.parse(variant).target).libraries())
    compared = _reference(bundle)
    with writing(bundle, f"{machine.id}.json") as path:
        known = _read(bundle, machine)
        old = _known(bundle, machine).get(variant)
        if old is not None and (old.files, old.libraries) == (fresh.files, fresh.libraries):
            fresh = old
        record = fresh
        if verification is not None:
            # An older verdict counts only if the reference is still the one that it compared with.
            changed = bool(fresh.reference and compared) and fresh.reference != compared
            kept = stronger(None if changed else fresh.verification, verification)
            record = replace(fresh, verification=kept, reference=compared or fresh.reference)
        if measured or latency is not None:
            record = with_figures(record, latency, loop) if latency else without_figures(record)
        records = {**known.records, variant: record}
        write_atomically(path, encoded(MachineRecords(machine, records), MachineRecords))
    return record.verification


def with_figures(record: Record, latency: Latency, loop: LoopRecord | None) -> Record:
    """Return a record with what a bench measured, beside what benches under other conditions did.

    A short run takes nothing from a long one: each protocol keeps its last figures.
    """
    latencies = (*(one for one in record.all_latencies if _how(one) != _how(latency)), latency)
    loops = record.all_loops
    if loop is not None:
        loops = (*(one for one in loops if _how_paced(one) != _how_paced(loop)), loop)
    alike = tuple(one for one in latencies if (one.threads, one.spin) == (latency.threads, latency.spin))
    last = next((one for one in reversed(loops) if (one.threads, one.spin) == (latency.threads, latency.spin)), None)
    return replace(record, latency=strongest(alike), loop=last, latencies=latencies, loops=loops)


def without_figures(record: Record) -> Record:
    """Return a record of the verdict alone."""
    return replace(record, latency=None, loop=None, latencies=(), loops=())


def strongest(latencies: tuple[Latency, ...]) -> Latency | None:
    """Return the figures of the strongest protocol, or None if there are none; it has one of each."""
    return max(latencies, key=lambda one: PROTOCOLS.index(one.protocol), default=None)


def _how(one: Latency) -> tuple[object, ...]:
    return one.protocol, one.threads, one.spin


def _how_paced(one: LoopRecord) -> tuple[object, ...]:
    return one.rate_hz, one.late, one.quick, one.threads, one.spin


def stronger(before: Verification | None, new: Verification) -> Verification:
    """Return which of two verdicts on the same files is kept, with the actions gate that saw more.

    A rejection replaces whatever was there, and gives way only to a verdict that looked at least as closely. So does a
    failure, which may have been of the moment: it gives way to any. Otherwise
    a verified one is stronger than one that is not, then the higher gate, then more pairs; of equals, the new one.
    """
    if before is None or new.status in ("rejected", "failed") or before.status == "failed" or _run_anew(before, new):
        return new
    if before.status == "rejected":
        return new if _overturns(new, before) else before
    kept, other = (new, before) if _strength(new) >= _strength(before) else (before, new)
    if other.observations <= kept.observations:
        return kept
    figures = ("max_abs_diff", "tolerance", "agreement", "regret", "observations", "worst")
    return replace(kept, **{name: getattr(other, name) for name in figures})


def _run_anew(before: Verification, new: Verification) -> bool:
    """Whether old pairs do not count: episodes are truncated elsewhere now, or the same seeds gave other returns.

    An environment was then found not to replay.
    """
    if not before.rung == new.rung == "reward":
        return False
    both = zip(before.returns, new.returns, strict=False)
    other = any(old[0] == now[0] and old != now for old, now in both)
    return other or before.max_episode_steps != new.max_episode_steps


def _strength(verdict: Verification) -> tuple[bool, int, int]:
    proves_nothing = verdict.rung == "recordings" and not verdict.agrees_on_recordings
    return verdict.status == "verified", GATES.index("actions" if proves_nothing else verdict.rung), verdict.pairs


def _overturns(new: Verification, rejection: Verification) -> bool:
    if new.rung == rejection.rung == "reward":
        return new.pairs >= rejection.pairs
    if rejection.rung == "actions" and new.observations < rejection.observations:
        return False
    return GATES.index(new.rung) >= GATES.index(rejection.rung)


def _reference(bundle: Bundle) -> str:
    """Return a digest over what the reference is; empty where it is not in the bundle."""
    build = bundle.builds.get(bundle.reference)
    if build is None or build.status != "built":
        return ""
    return hashlib.sha256(to_json(facts(bundle, bundle.reference))).hexdigest()


def _holds(bundle: Bundle, record: Record) -> bool:
    build = bundle.builds.get(record.variant.partition("@")[0])
    if build is None or build.status != "built" or files_digest(build) != record.files:
        return False
    if targets.unknown(record.variant):  # a place of a newer xfer
        return False
    return record.libraries == targets.load(Variant.parse(record.variant).target).libraries()


def _others(bundle: Bundle, machine: Machine) -> list[MachineRecords]:
    """Return the records of other machines, without what is damaged, or a newer xfer's: it is not needed here."""
    found = []
    for path in [path for folder in folders(bundle) for path in sorted(folder.glob("*.json"))]:
        if path.stem != machine.id:
            with suppress(BundleError):
                found.append(_read_file(path))
    return found


def _read(bundle: Bundle, machine: Machine) -> MachineRecords:
    found = MachineRecords(machine)
    for folder in folders(bundle):
        path = folder / f"{machine.id}.json"
        if path.exists():
            read = _read_file(path)
            newer = {k: v for k, v in read.records.items() if k not in found.records or _holds(bundle, v)}
            found = MachineRecords(read.machine, {**found.records, **newer})
    return found


def _read_file(path: Path) -> MachineRecords:
    try:
        return from_json(path.read_bytes(), MachineRecords)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise BundleError(f"{path} is damaged ({error}). Delete it, then verify and bench again.") from error


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
