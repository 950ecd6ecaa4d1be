"""Pairs of episodes of a reward gate that has not ended yet, so that an interrupted gate continues.

One file for each machine, in ``records/unfinished/``. A variant's pairs are deleted once its verdict is a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from export import targets
from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.reader import Bundle
from export.targets import Variant
from export.verification.pairs import Outcome
from xfer.errors import BundleError
from xfer.files import from_json, to_json, write_atomically


@dataclass(frozen=True)
class CachedPairs:
    """The pairs of one variant so far.

    Attributes:
        identity: Digest over what the pairs depend on besides their seeds: files and libraries, its own and the
            reference's.
        outcomes: Its pairs, in the order of their seeds.
    """

    identity: str
    outcomes: tuple[Outcome, ...]


class PairCache:
    """The pairs of a bundle that were run on this machine and are not part of a verdict yet."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.path = bundle.path / records.RECORDS / "unfinished" / f"{this_machine().id}.json"

    def load(self, names: Sequence[str]) -> dict[str, list[Outcome]]:
        """Return the pairs of each of these variants; none where what they depend on has changed.

        Raises:
            BundleError: If the file is damaged.
        """
        cached = self._read()
        same = [name for name in names if name in cached and cached[name].identity == self._identity(name)]
        return {name: list(cached[name].outcomes) if name in same else [] for name in names}

    def save(self, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
        """Keep the pairs of these variants so far.

        Raises:
            BundleError: If the bundle cannot be written to.
        """
        cached = {name: CachedPairs(self._identity(name), tuple(map(_storable, outcomes[name]))) for name in outcomes}
        self._write(self._read() | cached)

    def clear(self, names: Collection[str]) -> None:
        """Delete the pairs of these variants: their verdicts are records now.

        Raises:
            BundleError: If the bundle cannot be written to.
        """
        if self.path.exists():
            self._write({name: one for name, one in self._read().items() if name not in names})

    def _read(self) -> dict[str, CachedPairs]:
        try:
            return from_json(self.path.read_bytes(), dict[str, CachedPairs]) if self.path.exists() else {}
        except msgspec.DecodeError as error:
            raise BundleError(f"{self.path} is damaged ({error}). Delete it, then verify again.") from error

    def _write(self, cached: dict[str, CachedPairs]) -> None:
        try:
            if cached:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.path, to_json(cached))
            else:
                self.path.unlink()
        except OSError as error:
            raise BundleError(f"{self._bundle.path} cannot be written to: {error.strerror}.") from error

    def _identity(self, name: str) -> str:
        facts = [
            (records.files_digest(self._bundle.build(variant)), targets.load(Variant.parse(variant).target).libraries())
            for variant in (self._bundle.reference, name)
        ]
        return hashlib.sha256(to_json(facts)).hexdigest()


def _storable(pair: Outcome) -> Outcome:
    """The variant's return of a pair that failed is NaN, which JSON lacks and which is not used."""
    return replace(pair, variant=0.0) if pair.error else pair
