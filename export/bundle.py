"""The bundle: a folder that holds a policy in every form that was built, and what is known of each.

    cartpole.bundle/
      manifest.json              schema version, spec, provenance, one build entry a variant, a digest over itself
      golden.safetensors.gz      trajectories: raw observations, resets, eager's actions and scores
      variants/onnx-fp32-3f9a1c/ one folder a build, named by its content key, never changed once written
      records/MACHINE.json       what was verified and measured, where (``export/records.py``)

Every file that is read is checked against its SHA-256 first. That is integrity, not authenticity: whoever can
rewrite a bundle can rewrite its hashes. ``export/writer.py`` writes bundles; this file only reads them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from export import targets
from export.targets import Place, Variant
from xfer.errors import BundleError, UnavailableError, check_choice
from xfer.files import from_json, sha256, to_json
from xfer.runner import Runner, Session
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories, load_trajectories

SCHEMA = (1, 0)
"""Major and minor version of the manifest. Readers accept the same major version."""

MANIFEST, GOLDEN, VARIANTS = "manifest.json", "golden.safetensors.gz", "variants"
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
        status: ``built``; or ``failed`` or ``unavailable``, and then ``reason`` says why and there are no files.
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
    status: Literal["built", "failed", "unavailable"]
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
        return f"{self.notes}; not run here: {why}" if self.notes else f"not run here: {why}"


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
class Manifest:
    """``manifest.json``. ``digest`` is the SHA-256 of the file itself with 64 zeros in the digest's place."""

    schema: tuple[int, int]
    digest: str
    spec: PolicySpec
    provenance: Provenance
    golden: FileFact
    builds: tuple[Build, ...] = ()

    def encode(self) -> bytes:
        """Return the file's content, digest included."""
        blank = to_json(replace(self, digest=NO_DIGEST))
        digest = hashlib.sha256(blank).hexdigest().encode()
        return _DIGEST.sub(b'"digest": "%s"' % digest, blank, count=1)


class Bundle:
    """A bundle that is read.

    Args:
        path: Its folder.

    Raises:
        BundleError: If the manifest is missing, empty, not JSON, edited, or of a newer schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path / MANIFEST)
        self.spec = self.manifest.spec
        self.builds = {build.variant: build for build in self.manifest.builds}

    def build(self, variant: str) -> Build:
        """Return the entry of the build that ``variant`` (with or without @PLACE) runs.

        Raises:
            UsageError: If the bundle has no such variant, with the closest that it has.
            BundleError: If building it failed.
        """
        name = variant.partition("@")[0]
        build = self.builds[check_choice("variant", name, self.builds)]
        if build.status != "built":
            raise BundleError(f"{name} was not built ({build.status}): {build.reason}")
        return build

    def check(self, build: Build) -> Path:
        """Compare every file of a build with its size and SHA-256, and return their folder.

        Raises:
            BundleError: On a missing, truncated, exchanged or extra file, or a path that leaves the bundle.
        """
        folder = self._inside(build.folder)
        for name, fact in build.files.items():
            self._check_file(self._inside(f"{build.folder}/{name}"), fact)
        extra = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - set(build.files)
        if extra:
            raise BundleError(f"{folder / min(extra)} is not in the manifest. Export again.")
        return folder

    def golden(self) -> Trajectories:
        """Return the golden trajectories.

        Raises:
            BundleError: If the file is missing or changed.
        """
        path = self._inside(GOLDEN)
        self._check_file(path, self.manifest.golden)
        return load_trajectories(path)

    @contextmanager
    def session(self, variant: str, *, threads: int = 1, spin: bool = False) -> Iterator[Session]:
        """Open a variant.

        Args:
            variant: TARGET-PRECISION or TARGET-PRECISION@PLACE.
            threads: Threads inside an operation.
            spin: Whether idle threads spin between calls.

        Raises:
            UsageError: On a name that does not exist.
            BundleError: If it was not built, or its files are not those of the manifest.
            UnavailableError: If this machine cannot run it.
        """
        build = self.build(variant)
        parsed = Variant.parse(variant)
        module = targets.load(parsed.target)
        if (reason := module.runnable(parsed.place)) is not None:
            raise UnavailableError(f"{variant} cannot run here: {reason}")
        folder = self.check(build)
        with module.load(folder, self.spec, Place(parsed.place, threads, spin)) as session:
            yield session

    @contextmanager
    def runner(self, variant: str, *, batch: int = 1, threads: int = 1, spin: bool = False) -> Iterator[Runner]:
        """Open a variant with its states kept; see ``session`` for arguments and errors."""
        with self.session(variant, threads=threads, spin=spin) as session:
            yield Runner(session, self.spec, batch)

    def _inside(self, relative: str) -> Path:
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts or not relative:
            raise BundleError(f"The manifest names '{relative}', which is not inside the bundle.")
        found = self.path / path
        if not found.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"{found} leads out of the bundle.")
        return found

    @staticmethod
    def _check_file(path: Path, fact: FileFact) -> None:
        if not path.is_file():
            raise BundleError(f"{path} is missing. Copy the bundle again, or export again.")
        if path.stat().st_size != fact.size:
            raise BundleError(
                f"{path} has {path.stat().st_size} bytes, expected {fact.size}: truncated or exchanged."
                " Copy the bundle again, or export again."
            )
        if sha256(path) != fact.sha256:
            raise BundleError(
                f"{path} is not the file that was exported (its SHA-256 differs). Copy the bundle again, or"
                " export again."
            )


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
    if schema[0] != SCHEMA[0]:
        raise BundleError(
            f"{path} has schema {schema[0]}.{schema[1]}; this xfer reads {SCHEMA[0]}.x. Install a matching xfer."
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
