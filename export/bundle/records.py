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
from typing import Any, TypeVar

import msgspec

from export import targets
from export.bundle import access
from export.bundle.latencies import Latency, LoopRecord, strongest
from export.bundle.machine import Machine, this_machine
from export.bundle.manifest import RECORDS, Build
from export.bundle.reader import Bundle
from export.bundle.verdicts import Verification, stronger, unjudged
from export.targets import Variant
from xfer.errors import BundleError
from xfer.files import from_json, to_json, write_atomically

T = TypeVar("T")

POLICY = ".policy"
"""File in a folder of records that names whose they are."""


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
    return with_all_figures(record, replace(record, latencies=(latency,), loop=None, loops=(loop,) if loop else ()))


def with_all_figures(record: Record, newer: Record) -> Record:
    """Return a record with the figures of a newer one beside those under other conditions."""
    added, loops = newer.all_latencies, newer.all_loops
    if not added:
        return record
    last, how, paced = added[-1], {one.how for one in added}, {one.how for one in loops}
    latencies = (*(one for one in record.all_latencies if one.how not in how), *added)
    loops = (*(one for one in record.all_loops if one.how not in paced), *loops)
    alike = tuple(one for one in latencies if (one.threads, one.spin) == (last.threads, last.spin))
    loop = next((one for one in reversed(loops) if (one.threads, one.spin) == (last.threads, last.spin)), None)
    return replace(record, latency=strongest(alike), loop=loop, latencies=latencies, loops=loops)


def without_figures(record: Record) -> Record:
    """Return a record of the verdict alone."""
    return replace(record, latency=None, loop=None, latencies=(), loops=())


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
