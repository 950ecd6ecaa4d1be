"""``manifest.json``: the description of a bundle, as frozen plain values."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from xfer.errors import BundleError
from xfer.files import from_json, to_json
from xfer.spec import PolicySpec

MANIFEST, GOLDEN, VARIANTS, RECORDS = "manifest.json", "golden.safetensors.gz", "variants", "records"
HELD_OUT = "held-out.safetensors.gz"
"""What the live policy did on its held-out observations: actions and scores, without the observations."""
SCHEMA = (1, 2)
"""Major and minor version of the manifest. Readers accept the same major version."""
QUEUED_SCHEMA = (2, 0)
"""Those of a policy with action chunks or frames: who does not know of them would act wrongly, and must refuse it."""

STATUSES = ("built", "failed", "unavailable")
"""What became of a build."""
NOT_RUN = "not run here"
"""How a reason begins that is this machine's, and says nothing of the files."""
NO_DIGEST = "0" * 64


_DIGEST = re.compile(rb'"digest": "([0-9a-f]{64})"')


@dataclass(frozen=True)
class FileFact:
    """Size in bytes and SHA-256 (64 hexadecimal digits) of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Build:
    """Facts about one variant's files. They never change once the build is in the manifest.

    Attributes:
        variant: TARGET-PRECISION.
        status: ``built``; or ``failed`` or ``unavailable``, and then ``reason`` says why and there are no files. A
            newer xfer may know others; of an opened bundle (``Bundle.builds``) it is one of these three.
        reason: Why there are no files.
        notes: What else to know of them, such as which GPUs an engine was built for.
        key: Content key: weights, spec, options, calibration, libraries and instruction set.
        folder: Folder of the files, relative to the bundle.
        files: Each file in it, by its path in the folder.
        max_batch: Largest batch, None where there is no limit.
        compute_capabilities: GPUs that the files run on, where they name any.
        libraries: Versions of what built it.
        options: What the build was told.
        instruction_set: Of the processor that built it.
        calibration: SHA-256 of the observations that int8 was calibrated on, or empty.
        command: The command that builds it again.
        seconds: How long it took.
    """

    variant: str
    status: str
    reason: str = ""
    notes: str = ""
    key: str = ""
    folder: str = ""
    files: dict[str, FileFact] = field(default_factory=dict)
    max_batch: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    instruction_set: str = ""
    calibration: str = ""
    command: str = ""
    seconds: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(fact.size for fact in self.files.values())

    def not_run(self, why: str) -> str:
        """Return what to say of a build that cannot be run on this machine."""
        return f"{self.notes}; {NOT_RUN}: {why}" if self.notes else f"{NOT_RUN}: {why}"


@dataclass(frozen=True)
class Provenance:
    """Where the policy came from, and which graph it is.

    Attributes:
        run: Folder of the training run on the machine that exported it.
        weights: SHA-256 of the policy's weights.
        backbone: Name of the torchvision network.
        tap: Stage that the head reads; later ones are not in the graph.
        head: Kind of head.
        parameters: Executed parameters.
        macs: Multiply-accumulates of one step.
        xfer: Version that wrote the bundle.
    """

    run: str
    weights: str
    backbone: str
    tap: str
    head: str
    parameters: int
    macs: int
    xfer: str


@dataclass(frozen=True)
class Spreads:
    """Robust spreads of what the live policy gave over all recorded rows; differences are judged as shares of them.

    Attributes:
        scores: Of each element of the scores, centered for a discrete action, in the scores' units.
        actions: Of each element of a continuous action, in its unit; empty for a discrete one.
        reach: A score that lies further than this below the best of its row is a mask, not a preference; None if there
            are none. Always None for a continuous action.
    """

    scores: tuple[float, ...]
    actions: tuple[float, ...] = ()
    reach: float | None = None


@dataclass(frozen=True)
class HeldOutReference:
    """What the live policy did on the held-out observations of its run.

    Attributes:
        file: The file of its actions and scores, in the bundle.
        observations: ``Trajectories.digest()`` of the observations that they belong to, which stay with the run.
    """

    file: FileFact
    observations: str


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``.

    Attributes:
        schema: Major and minor version, ``schema_of(spec)``; readers accept the major versions that they know.
        digest: SHA-256 of the file itself with 64 zeros in the digest's place.
        spec: The policy's contract.
        provenance: Where the policy comes from.
        golden: The file of golden trajectories.
        builds: One entry a variant.
        reference: The variant that all others are compared with in returns and in speed. It need not be among the
            builds: a packed bundle holds one variant. Bundles of version 0.2.0 name none; theirs is eager PyTorch.
        spreads: Of what the live policy gave; None in bundles of version 0.2.0.
        held_out: What the live policy did on held-out observations; None in bundles of version 0.2.0.
    """

    schema: tuple[int, int]
    digest: str
    spec: PolicySpec
    provenance: Provenance
    golden: FileFact
    builds: tuple[Build, ...] = ()
    reference: str = "eager-fp32"
    spreads: Spreads | None = None
    held_out: HeldOutReference | None = None

    def encode(self) -> bytes:
        """Return the file's content, digest included."""
        blank = to_json(replace(self, digest=NO_DIGEST))
        digest = hashlib.sha256(blank).hexdigest().encode()
        return _DIGEST.sub(b'"digest": "%s"' % digest, blank, count=1)


def schema_of(spec: PolicySpec) -> tuple[int, int]:
    """Return the lowest schema that says all that a policy's runner must do."""
    return QUEUED_SCHEMA if spec.queued else SCHEMA


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        BundleError: If it is missing, empty, not JSON, edited, or of a newer schema.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{path.parent} is not a bundle: it has no {MANIFEST}.") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from error
    if not data.strip():
        raise BundleError(f"{path} is empty. Copy the bundle again, or export again.")
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema
    except msgspec.DecodeError as error:
        raise BundleError(f"{path} is not a manifest: {error}.") from error
    if schema[0] not in (known := (SCHEMA[0], QUEUED_SCHEMA[0])):
        raise BundleError(
            f"{path} has schema {schema[0]}.{schema[1]}; this xfer reads {known[0]}.x and {known[1]}.x. Install a"
            " matching xfer."
        )
    found = _DIGEST.search(data)
    blank = _DIGEST.sub(b'"digest": "%s"' % NO_DIGEST.encode(), data, count=1)
    if found is None or found[1].decode() != hashlib.sha256(blank).hexdigest():
        raise BundleError(f"{path} was edited: its digest does not match. Copy the bundle again, or export again.")
    try:
        return from_json(data, Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(f"{path} is not a manifest: {error}.") from error


class _SchemaOnly(msgspec.Struct):
    schema: tuple[int, int]
