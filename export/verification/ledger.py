"""The ledger of pairs: what the reward gate ran on this kind of machine, of every variant that ever entered it.

It is one file for each kind, in ``records/pairs/``, from which nothing is deleted. An interrupted gate continues, a
later one adds to the pairs that there are, and a verdict is joint for all that entered, also for those that were
rejected or whose files were replaced since.

Variants that enter together are a *group* and run the same seeds. These come from a digest of the reference's files
and of the group's names and files, so other files are judged on other episodes: a choice among many exports, or a
repair, cannot fit itself to those that judge it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec

from export.bundle import access, records
from export.bundle.machine import this_machine
from export.bundle.reader import Bundle
from export.bundle.record import Record, Verification
from export.verification.pairs import Outcome
from xfer import tasks
from xfer.errors import BundleError
from xfer.evaluate import PAIR_SEED
from xfer.files import from_json, to_json, write_atomically

T = TypeVar("T")

FIRST_SEED, LAST_SEED = 10_000_000, 2**31 - 1
"""Where the seeds of pairs lie: clear of all others in ``xfer.evaluate``, and an int32 in whatever simulator."""

PAIRS, UNFINISHED = "pairs", "unfinished"
"""Folders among a bundle's records: of the ledger, and of what version 0.2.0 kept."""

MOST_PAIRS = 1_000_000
"""How many seeds a group has."""


@dataclass(frozen=True)
class Entry:
    """One variant that entered the reward gate.

    Attributes:
        variant: Its name.
        identity: Digest over what its pairs depend on besides their seeds: files and libraries, its own and the
            reference's, and after how many steps episodes are truncated, if they are.
        seed_base: Seed of its first pair; the others follow.
        outcomes: Its pairs, in the order of their seeds. Only the first divergence has a picture.
        verified: Whether it was verified at some look; then it remains so.
        forked: In how many pairs of an older record, which kept one divergence only, the actions differed besides.
    """

    variant: str
    identity: str
    seed_base: int
    outcomes: tuple[Outcome, ...] = ()
    verified: bool = False
    forked: int = 0

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.variant} {self.identity}"


@dataclass(frozen=True)
class _CachedPairs:
    """A variant's pairs as version 0.2.0 kept them, until there was a verdict."""

    identity: str
    outcomes: tuple[Outcome, ...]


class Ledger:
    """All entries of a bundle on machines of this kind.

    Args:
        bundle: The bundle.
        keep: Whether they are read from the bundle and written to it.
    """

    def __init__(self, bundle: Bundle, *, keep: bool = True) -> None:
        self._bundle, self._keep = bundle, keep
        self._name = f"{this_machine().kind}.json"

    @property
    def path(self) -> Path:
        """The file that entries are written to."""
        return records.folders(self._bundle)[-1] / PAIRS / self._name

    def entries(self) -> dict[str, Entry]:
        """Return every entry by its key, in the order in which they came.

        What version 0.2.0 kept is among them: verdicts with their returns, and pairs that were not a verdict yet.

        Raises:
            BundleError: If a file is damaged.
        """
        if not self._keep:
            return {}
        found: dict[str, Entry] = {}
        cached: dict[str, _CachedPairs] = {}
        for folder in records.folders(self._bundle):
            for entry in _read(folder / PAIRS / self._name, list[Entry], []):
                found[entry.key] = _joined(found.get(entry.key, entry), entry)
            cached |= _read(folder / UNFINISHED / f"{this_machine().id_v020}.json", dict[str, _CachedPairs], {})
        older = [Entry(name, one.identity, PAIR_SEED, one.outcomes) for name, one in cached.items()]
        known = records.of_this_machine(self._bundle)
        older += [self._of_record(record, known.get(self._bundle.reference)) for record in known.values()]
        # Of the same variant the ledger's own entry counts, then pairs that went on, then the verdict before them.
        for entry in sorted(older, key=lambda entry: len(entry.outcomes), reverse=True):
            if entry.outcomes and entry.variant != self._bundle.reference:
                found.setdefault(entry.key, entry)
        return found

    def enter(self, names: Iterable[str]) -> dict[str, Entry]:
        """Return the entry of each of these variants; those that have none yet become a group.

        Raises:
            BundleError: If a file is damaged.
        """
        known = self.entries()
        steps = tasks.max_episode_steps()
        identities = {name: self._identity(*self._facts(name), steps) for name in sorted(names)}
        found = {name: known.get(Entry(name, identity, 0).key) for name, identity in identities.items()}
        files = {name: self._facts(name)[0] for name, entry in found.items() if entry is None}
        base = seed_base(self._facts(self._bundle.reference)[0], files)
        return {name: entry or Entry(name, identities[name], base) for name, entry in found.items()}

    def save(self, entries: Iterable[Entry]) -> None:
        """Keep entries; of the same variant and files the one that has more pairs.

        Raises:
            BundleError: If the bundle cannot be written to, or the ledger is damaged.
        """
        if not self._keep:
            return
        with records.writing(self._bundle, f"{PAIRS}/{self._name}") as path:
            kept = self.entries()
            for entry in map(_with_one_picture, entries):
                kept[entry.key] = _joined(kept.get(entry.key, entry), entry)
            write_atomically(path, records.encoded(list(kept.values()), list[Entry]))
            access.within(path.parents[1], f"{UNFINISHED}/{this_machine().id_v020}.json").unlink(missing_ok=True)

    def _facts(self, name: str) -> tuple[str, dict[str, str]]:
        return records.facts(self._bundle, name)

    def _identity(
        self, files: str, libraries: Mapping[str, str], steps: int | None, reference: Record | None = None
    ) -> str:
        compared = self._facts(self._bundle.reference) if reference is None else (reference.files, reference.libraries)
        facts = [compared, (files, libraries)]
        return hashlib.sha256(to_json(facts if steps is None else [*facts, steps])).hexdigest()

    def _of_record(self, record: Record, reference: Record | None) -> Entry:
        verdict = record.verification or Verification("built")
        seeds = [seed for seed, _, _ in verdict.returns]
        base = seeds[0] if seeds else PAIR_SEED
        whole = all(later == seed + 1 for seed, later in pairwise(seeds))
        where = verdict.divergence
        outcomes = tuple(
            Outcome(seed, first, own, where if where is not None and where.seed == seed else None)
            for seed, first, own in verdict.returns
        )
        return Entry(
            record.variant,
            self._identity(record.files, record.libraries, verdict.max_episode_steps, reference),
            base,
            outcomes if whole and verdict.rung == "reward" else (),
            verified=verdict.status == "verified",
            forked=max(0, verdict.forked - (where is not None)),
        )


def seed_base(reference: str, group: Mapping[str, str]) -> int:
    """Return the seed of the first pair of variants that enter together.

    Args:
        reference: Digest over the reference's files.
        group: Digest over each variant's files, by its name.
    """
    digest = hashlib.sha256(to_json([reference, sorted(group.items())])).digest()
    return FIRST_SEED + int.from_bytes(digest[:8], "big") % (LAST_SEED - MOST_PAIRS - FIRST_SEED)


def _read(path: Path, kind: type[T], missing: T) -> T:
    try:
        return from_json(path.read_bytes(), kind) if path.exists() else missing
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(f"{path} is damaged ({error}). Delete it, then verify again.") from error


def _joined(before: Entry, new: Entry) -> Entry:
    """Another process may have run pairs of the same seeds, and more; independent episodes replace shared ones."""
    if any(pair.differs for pair in new.outcomes) and not all(pair.differs for pair in before.outcomes):
        return new
    longer = before if len(before.outcomes) > len(new.outcomes) else new
    return replace(longer, verified=before.verified or new.verified)


def _with_one_picture(entry: Entry) -> Entry:
    outcomes: list[Outcome] = []
    for pair in entry.outcomes:
        if pair.divergence is not None and pair.divergence.picture and any(one.divergence for one in outcomes):
            pair = replace(pair, divergence=replace(pair.divergence, picture=""))
        outcomes.append(pair)
    return replace(entry, outcomes=tuple(outcomes))
