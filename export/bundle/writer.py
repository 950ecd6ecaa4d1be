"""Writing bundles: a build goes to a temporary folder and is renamed into place; then the manifest is replaced.

A reader therefore sees the old bundle or the new one, never half of one, and a writer that is killed leaves a
whole bundle behind. A lock file keeps two writers apart.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from export.bundle.manifest import (
    GOLDEN,
    HELD_OUT,
    MANIFEST,
    SCHEMA,
    VARIANTS,
    Build,
    FileFact,
    HeldOutReference,
    Manifest,
    Provenance,
    Spreads,
)
from export.bundle.reader import Bundle
from xfer.errors import BundleError
from xfer.files import sha256, to_json, write_atomically
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

LOCK_TIMEOUT_S = 600.0
"""How long a second writer waits for the first."""

ABANDONED_AFTER_S = 3600.0
"""Age at which a temporary folder is taken to be a killed writer's."""


@dataclass(frozen=True)
class References:
    """What the live policy did: what a bundle's variants are compared with.

    Attributes:
        golden: Golden trajectories, with actions and scores.
        held_out: Its actions and scores on the held-out observations of its run, without these; or None.
        observations: ``Trajectories.digest()`` of those observations.
        spreads: Of its scores and actions over all recorded rows, or None.
    """

    golden: Trajectories
    held_out: Trajectories | None = None
    observations: str = ""
    spreads: Spreads | None = None


def content_key(facts: dict[str, object]) -> str:
    """Return 12 hexadecimal digits that stand for everything a build depends on."""
    return hashlib.sha256(to_json(dict(sorted(facts.items())))).hexdigest()[:12]


def file_facts(folder: Path) -> dict[str, FileFact]:
    """Return size and SHA-256 of every file below ``folder``."""
    return {
        path.relative_to(folder).as_posix(): FileFact(path.stat().st_size, sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class BundleWriter:
    """Adds builds to a bundle, creating it if need be.

    Args:
        path: The bundle's folder.

    Raises:
        BundleError: If something else is at that path, or it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not (path.is_dir() and ((path / MANIFEST).exists() or _is_empty(path))):
            raise BundleError(f"{path} exists and is not a bundle. Choose another --output, or delete it.")
        self._made = not path.exists()
        try:
            (path / VARIANTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleError(f"{path} cannot be written to: {error.strerror}.") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the bundle's lock.

        Raises:
            BundleError: If another process holds it for ten minutes, or the folder cannot be written to.
        """
        try:
            with FileLock(self.path / ".lock", timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise BundleError(f"{self.path} is being written to by another process.") from error
        except PermissionError as error:
            raise BundleError(f"{self.path} cannot be written to: {error.strerror}.") from error

    def begin(
        self,
        spec: PolicySpec,
        provenance: Provenance,
        references: Callable[[], References],
        reference: str,
        *,
        renew: bool = False,
    ) -> None:
        """Write golden, the other references and a manifest without builds, unless the bundle is there already.

        A bundle that lacks its references, as those of version 0.2.0 do, gets them; its golden stays.

        Args:
            spec: The policy's contract.
            provenance: Which policy it is.
            references: Returns what the live policy did; called if there is no bundle yet, or it lacks that. If it
                raises, nothing of a new bundle is left.
            reference: The variant that all others are compared with.
            renew: Whether the references of a bundle are written anew, since they were made of other observations.

        Raises:
            BundleError: If the bundle holds another policy.
        """
        new = not (self.path / MANIFEST).exists()
        try:
            with self.locked():
                if (self.path / MANIFEST).exists():
                    manifest = Bundle(self.path).manifest
                    if manifest.provenance.weights != provenance.weights or manifest.spec != spec:
                        raise BundleError(
                            f"{self.path} holds another policy (exported from {manifest.provenance.run})."
                            " Choose another --output, or delete it."
                        )
                    if renew or not self._has_references(manifest):
                        self._write(self._with_references(manifest, references()))
                    return
                made = references()
                made.golden.save(self.path / GOLDEN)
                manifest = Manifest(SCHEMA, "", spec, provenance, self._fact(GOLDEN), reference=reference)
                self._write(self._with_references(manifest, made))
        except BaseException:
            if new and not (self.path / MANIFEST).exists():
                self._leave_nothing()
            raise

    def _has_references(self, manifest: Manifest) -> bool:
        """Whether there is all that variants are compared with, as the manifest says."""
        if manifest.spreads is None or manifest.held_out is None:
            return False
        path = self.path / HELD_OUT
        return path.is_file() and self._fact(HELD_OUT) == manifest.held_out.file

    def _with_references(self, manifest: Manifest, made: References) -> Manifest:
        if made.held_out is None:
            return replace(manifest, spreads=made.spreads)
        made.held_out.save(self.path / HELD_OUT)
        held_out = HeldOutReference(self._fact(HELD_OUT), made.observations)
        return replace(manifest, schema=SCHEMA, spreads=made.spreads, held_out=held_out)

    def _fact(self, name: str) -> FileFact:
        path = self.path / name
        return FileFact(path.stat().st_size, sha256(path))

    def _leave_nothing(self) -> None:
        """Delete what a bundle begins with, but not a folder that was there before."""
        for name in (GOLDEN, HELD_OUT, ".lock"):
            (self.path / name).unlink(missing_ok=True)
        (self.path / VARIANTS).rmdir()
        if self._made:
            self.path.rmdir()

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Give a folder on the bundle's own file system, and delete it if it is still there afterwards."""
        folder = Path(tempfile.mkdtemp(dir=self.path, prefix=".building-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, build: Build, folder: Path | None = None) -> Build:
        """Move a built folder into place and enter the build in the manifest.

        Args:
            build: The entry, without folder and files.
            folder: Where the files are now, or None if there are none.

        Returns:
            The entry as it stands in the manifest.
        """
        with self.locked():
            manifest = Bundle(self.path).manifest
            if folder is not None:
                final = self.path / VARIANTS / f"{build.variant}-{build.key[:6]}"
                relative = final.relative_to(self.path).as_posix()
                for present in manifest.builds:
                    if present.folder == relative and present.key == build.key and self.is_whole(present):
                        return present  # another writer was faster
                if final.exists():  # left by a writer that was killed before it replaced the manifest
                    shutil.rmtree(final)
                folder.chmod(0o755)
                folder.replace(final)
                build = replace(build, folder=relative, files=file_facts(final))
            others = tuple(b for b in manifest.builds if b.variant != build.variant)
            builds = tuple(sorted((*others, build), key=lambda b: (b.variant != manifest.reference, b.variant)))
            self._write(replace(manifest, builds=builds))
            return build

    def is_whole(self, build: Build) -> bool:
        """Whether a build's files are still what the manifest says."""
        try:
            Bundle(self.path).check(build)
        except BundleError:
            return False
        return True

    def sweep(self) -> None:
        """Delete what no manifest names: replaced builds, and what killed writers left more than an hour ago."""
        with self.locked():
            named = {build.folder for build in Bundle(self.path).manifest.builds}
            unnamed = [
                folder
                for folder in (self.path / VARIANTS).iterdir()
                if folder.relative_to(self.path).as_posix() not in named
            ]
            abandoned = [
                folder
                for folder in self.path.glob(".building-*")
                if time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S
            ]
            for folder in unnamed + abandoned:
                shutil.rmtree(folder, ignore_errors=True)

    def _write(self, manifest: Manifest) -> None:
        write_atomically(self.path / MANIFEST, manifest.encode())


def _is_empty(path: Path) -> bool:
    """Whether a folder holds nothing but what an interrupted first export leaves."""
    return all(entry.name in (VARIANTS, GOLDEN, HELD_OUT) or entry.name.startswith(".") for entry in path.iterdir())
