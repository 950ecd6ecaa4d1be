"""Pairs of episodes of a reward gate that has not ended yet, so that one that is interrupted continues.

One file for each machine, in ``records/unfinished/``. A variant's pairs leave it when its verdict is kept.
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
from export.targets import BASELINE, Variant
from export.verification.pairs import Outcome
from xfer.errors import BundleError
from xfer.files import from_json, to_json, write_atomically


@dataclass(frozen=True)
class Begun:
    """What was found of one variant so far.

    Attributes:
        identity: Digest over what the pairs depend on besides their seeds: files and libraries, eager's and its own.
        outcomes: Its pairs, in the order of their seeds.
    """

    identity: str
    outcomes: tuple[Outcome, ...]


class PairCache:
    """The pairs of a bundle that were run on this machine and are in no verdict yet."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.path = bundle.path / records.RECORDS / "unfinished" / f"{this_machine().id}.json"

    def load(self, names: Sequence[str]) -> dict[str, list[Outcome]]:
        """Return the pairs of each of these variants; none where what they depend on has changed.

        Raises:
            BundleError: If the file is damaged.
        """
        begun = self._read()
        same = [name for name in names if name in begun and begun[name].identity == self._identity(name)]
        return {name: list(begun[name].outcomes) if name in same else [] for name in names}

    def save(self, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
        """Keep the pairs of these variants so far.

        Raises:
            BundleError: If the bundle cannot be written to.
        """
        begun = {name: Begun(self._identity(name), tuple(map(_storable, outcomes[name]))) for name in outcomes}
        self._write(self._read() | begun)

    def clear(self, names: Collection[str]) -> None:
        """Forget the pairs of these variants: their verdicts are kept.

        Raises:
            BundleError: If the bundle cannot be written to.
        """
        if self.path.exists():
            self._write({name: one for name, one in self._read().items() if name not in names})

    def _read(self) -> dict[str, Begun]:
        try:
            return from_json(self.path.read_bytes(), dict[str, Begun]) if self.path.exists() else {}
        except msgspec.DecodeError as error:
            raise BundleError(f"{self.path} is damaged ({error}). Delete it, then verify again.") from error

    def _write(self, begun: dict[str, Begun]) -> None:
        try:
            if begun:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.path, to_json(begun))
            else:
                self.path.unlink()
        except OSError as error:
            raise BundleError(f"{self._bundle.path} cannot be written to: {error.strerror}.") from error

    def _identity(self, name: str) -> str:
        facts = [
            (records.files_digest(self._bundle.build(variant)), targets.load(Variant.parse(variant).target).libraries())
            for variant in (BASELINE, name)
        ]
        return hashlib.sha256(to_json(facts)).hexdigest()


def _storable(pair: Outcome) -> Outcome:
    """Of a pair that failed, the variant's return is NaN, which JSON lacks and nobody asks for."""
    return replace(pair, variant=0.0) if pair.error else pair
