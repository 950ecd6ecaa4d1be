"""Writing bundles: a build goes to a temporary folder and is renamed into place; then the manifest is replaced.

A reader therefore sees the old bundle or the new one, never half of one, and a writer that is killed leaves a
whole bundle behind. So does a power cut: files, then folders, then the manifest reach the disk. A lock file keeps two
writers apart. No link is followed, and nothing is deleted but what a writer made.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from export.bundle import access
from export.bundle.access import within
from export.bundle.manifest import (
    GOLDEN,
    HELD_OUT,
    MANIFEST,
    RECORDS,
    VARIANTS,
    Build,
    FileFact,
    HeldOutReference,
    Manifest,
    Provenance,
    Spreads,
    schema_of,
)
from export.bundle.reader import Bundle
from export.targets import Variant
from xfer.errors import BundleError, UsageError
from xfer.files import sha256, sync, sync_tree, to_json, write_atomically
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

BUILDING = ".building-"
"""What the name of a temporary folder begins with."""

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
        with access.writable(path):
            if path.exists() and not (path.is_dir() and ((path / MANIFEST).exists() or _is_empty(path))):
                raise BundleError(f"{path} exists and is not a bundle. Choose another --output, or delete it.")
            self._made = not path.exists()
            self._refuse_links()
            (path / VARIANTS).mkdir(parents=True, exist_ok=True)
            if self._made:
                sync(path.parent)

    def _refuse_links(self) -> None:
        """Refuse a bundle in which something that a writer reads, replaces or deletes is a symbolic link."""
        for name in (MANIFEST, GOLDEN, HELD_OUT, VARIANTS, RECORDS):
            within(self.path, name)
        for entry in (*self._builds(), *self._temporary()):
            within(self.path, entry.relative_to(self.path).as_posix())

    def _builds(self) -> list[Path]:
        """Return what lies where builds do and is named as they are, in ``variants``."""
        folder = self.path / VARIANTS
        return [entry for entry in folder.iterdir() if _is_build(entry.name)] if folder.is_dir() else []

    def _temporary(self) -> list[Path]:
        temporary = re.compile(re.escape(BUILDING) + r"\w{8}")
        return [entry for entry in self.path.glob(f"{BUILDING}*") if temporary.fullmatch(entry.name)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the bundle's lock.

        Raises:
            BundleError: If another process holds it for ten minutes, the folder cannot be written to, or there is a
                symbolic link in it.
        """
        with access.locked(self.path):
            self._refuse_links()
            yield

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
                        made = references()
                        with access.writable(self.path):
                            self._write(self._with_references(manifest, made))
                    return
                try:
                    made = references()
                    with access.writable(self.path):
                        made.golden.save(self.path / GOLDEN)
                        manifest = Manifest(
                            schema_of(spec), "", spec, provenance, self._fact(GOLDEN), reference=reference
                        )
                        self._write(self._with_references(manifest, made))
                except BaseException:
                    if not (self.path / MANIFEST).exists():  # before another process, which waits, begins
                        for name in (GOLDEN, HELD_OUT):
                            (self.path / name).unlink(missing_ok=True)
                    raise
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
        return replace(manifest, schema=schema_of(manifest.spec), spreads=made.spreads, held_out=held_out)

    def _fact(self, name: str) -> FileFact:
        path = self.path / name
        return FileFact(path.stat().st_size, sha256(path))

    def _leave_nothing(self) -> None:
        """Delete the empty bundle, but not a folder that was there before, and nothing that somebody else put there."""
        with suppress(OSError):
            (self.path / access.LOCK).unlink(missing_ok=True)
            (self.path / VARIANTS).rmdir()
            if self._made:
                self.path.rmdir()

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Give a folder on the bundle's own file system, and delete it if it is still there afterwards."""
        with access.writable(self.path):
            folder = Path(tempfile.mkdtemp(dir=self.path, prefix=BUILDING))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, build: Build, folder: Path | None = None) -> Build:
        """Move a built folder into place and enter the build in the manifest.

        A build that is whole is not lost to one that failed: then the manifest stays as it is.

        Args:
            build: The entry, without folder and files.
            folder: Where the files are now, or None if there are none.

        Returns:
            The entry as it stands in the manifest.
        """
        with self.locked(), access.writable(self.path):
            manifest = Bundle(self.path).manifest
            present = next((one for one in manifest.builds if one.variant == build.variant), None)
            if folder is None:
                failed = build.status != "built"
                if failed and present is not None and present.status == "built" and self.is_whole(present):
                    return present
            else:
                final = within(self.path, f"{VARIANTS}/{build.variant}-{build.key[:6]}")
                relative = final.relative_to(self.path).as_posix()
                same = present is not None and (present.folder, present.key) == (relative, build.key)
                if present is not None and same and self.is_whole(present):
                    return present  # another writer was faster
                if final.exists():  # damaged, or left by a writer that was killed before it replaced the manifest
                    shutil.rmtree(final)
                folder.chmod(0o755)
                sync_tree(folder)
                folder.replace(final)
                sync(final.parent)
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
        """Delete what no manifest names: replaced builds, and what killed writers left more than an hour ago.

        Only real folders are deleted, and only those that are named as a build's or a writer's are.
        """
        with self.locked(), access.writable(self.path):
            named = {PurePosixPath(build.folder) for build in Bundle(self.path).manifest.builds}
            sync(self.path)  # after a power cut, too, this must be the manifest
            unnamed = [folder for folder in self._builds() if PurePosixPath(folder.relative_to(self.path)) not in named]
            abandoned = [folder for folder in self._temporary() if _age_s(folder) > ABANDONED_AFTER_S]
            for folder in unnamed + abandoned:
                if folder.is_dir():
                    shutil.rmtree(folder, ignore_errors=True)

    def _write(self, manifest: Manifest) -> None:
        write_atomically(self.path / MANIFEST, manifest.encode())


def _is_empty(path: Path) -> bool:
    """Whether a folder holds nothing but what an interrupted first export leaves."""
    return all(entry.name in (VARIANTS, GOLDEN, HELD_OUT) or entry.name.startswith(".") for entry in path.iterdir())


def _is_build(name: str) -> bool:
    """Whether a folder is named as those of builds are: TARGET-PRECISION-KEY."""
    variant, _, key = name.rpartition("-")
    try:
        return re.fullmatch("[0-9a-f]{6}", key) is not None and Variant.parse(variant).build == variant
    except UsageError:
        return False


def _age_s(path: Path) -> float:
    """Return how long ago something changed, in seconds; 0 of what another writer has deleted meanwhile."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
