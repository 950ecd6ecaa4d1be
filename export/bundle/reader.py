"""The bundle: a folder that holds all built variants of a policy, and the records of each.

    cartpole.bundle/
      manifest.json              schema version, spec, provenance, one build entry a variant, a digest over itself
      golden.safetensors.gz      trajectories: raw observations, resets, the live policy's actions and scores
      held-out.safetensors.gz    its actions and scores on the held-out observations, which stay with the run
      variants/onnx-fp32-3f9a1c/ one folder a build, named by its content key, never changed once written
      records/MACHINE.json       what was verified and measured, where (``records.py``)

Every file that is read is checked against its SHA-256 first. That is integrity, not authenticity: whoever can
rewrite a bundle can rewrite its hashes. ``writer.py`` writes bundles; this file only reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from export import targets
from export.bundle.golden import read_reference
from export.bundle.manifest import GOLDEN, HELD_OUT, MANIFEST, STATUSES, Build, FileFact, Spreads, read_manifest
from export.bundle.spreads import measure_spreads
from export.libraries.causes import failure
from export.targets import ExportOptions, Place, Variant
from xfer import __version__, tasks
from xfer.errors import BundleError, UnavailableError, UsageError, check_choice
from xfer.files import sha256
from xfer.runner import Runner, Session
from xfer.trajectories import Trajectories


class Bundle:
    """A bundle that is read.

    Args:
        path: Its folder.
        records: Folder that its records are written to, where that is not in it: it may be read-only.

    Raises:
        BundleError: If the manifest is missing, empty, not JSON, edited, or of a newer schema.
    """

    def __init__(self, path: str | Path, records: str | Path | None = None) -> None:
        self.path = Path(path)
        self.records = None if records is None else Path(records)
        self.manifest = read_manifest(self.path / MANIFEST)
        self.spec = self.manifest.spec
        self.unknown = {build.variant: why for build in self.manifest.builds if (why := _unknown(build))}
        """Why this version cannot use what a newer one has built, by variant."""
        self.builds = {build.variant: self._known(build) for build in self.manifest.builds}
        self.reference = self.manifest.reference
        """The variant that all others are compared with, in how they act and in how fast they are."""

    def _known(self, build: Build) -> Build:
        """Return an entry as this version understands it; what only a newer one can use is unavailable here."""
        why = self.unknown.get(build.variant)
        return build if why is None else replace(build, status="unavailable", reason=why)

    def check_known(self, asked: str) -> None:
        """Refuse a variant, or the target of one, that only a newer xfer knows.

        Raises:
            UnavailableError: With what is unknown.
        """
        asked = asked.partition("@")[0]
        for name, why in self.unknown.items():
            target = name.partition("-")[0]
            if asked == name or (asked == target and target not in targets.names()):
                raise UnavailableError(f"{self.path} has {name}, which is {why}. Install a newer xfer.")

    def build(self, variant: str) -> Build:
        """Return the entry of the build that ``variant`` (with or without @PLACE) runs.

        Raises:
            UsageError: If the bundle has no such variant, with the closest that it has.
            UnavailableError: If only a newer xfer knows it.
            BundleError: If building it failed.
        """
        self.check_known(variant)
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

    def truncated(self) -> AbstractContextManager[None]:
        """Truncate episodes as those were that the policy was trained in, unless the user says otherwise."""
        return tasks.truncated(tasks.max_episode_steps() or self.manifest.provenance.max_episode_steps)

    def golden(self) -> Trajectories:
        """Return the golden trajectories.

        Raises:
            BundleError: If the file is missing or changed, or does not fit the spec.
        """
        path = self._inside(GOLDEN)
        self._check_file(path, self.manifest.golden)
        return read_reference(path, self.spec, observations=True)

    def held_out(self) -> Trajectories | None:
        """Return what the live policy did on its run's held-out observations, without these; of older bundles None.

        Raises:
            BundleError: If the file is missing or changed, or does not fit the spec.
        """
        if self.manifest.held_out is None:
            return None
        path = self._inside(HELD_OUT)
        self._check_file(path, self.manifest.held_out.file)
        return read_reference(path, self.spec, observations=False)

    def spreads(self) -> Spreads:
        """Return the spreads of what the live policy gave; of older bundles those of golden.

        Raises:
            BundleError: If golden is needed, and is missing or changed.
        """
        return self.manifest.spreads or measure_spreads([self.golden()], self.spec)

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
        batch = build.max_batch or build.options.get("max_batch") or ExportOptions.max_batch
        with module.load(folder, self.spec, Place(parsed.place, threads, spin, parsed.precision, batch)) as session:
            yield session

    @contextmanager
    def runner(self, variant: str, *, batch: int = 1, threads: int = 1, spin: bool = False) -> Iterator[Runner]:
        """Open a variant with its states kept; see ``session`` for arguments and errors.

        Raises:
            UsageError: If its files take no such batch.
        """
        most = self.build(variant).max_batch
        if most is not None and batch > most:
            raise UsageError(f"A batch of {batch} does not fit: {variant} takes {most}.")
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


def why_not(bundle: Bundle, name: str) -> str | None:
    """Return why a variant cannot be measured here, or None if it can."""
    build = bundle.builds[name.partition("@")[0]]
    if build.status != "built":
        return build.reason
    variant = Variant.parse(name)
    try:
        return targets.load(variant.target).runnable(variant.place)
    except Exception as error:  # whatever a library that is installed, but broken, raises when it is imported
        return failure(error).reason


def _unknown(build: Build) -> str | None:
    """Return why this version cannot use an entry of a newer one, or None."""
    what = targets.unknown(build.variant) or ("" if build.status in STATUSES else f"status '{build.status}'")
    return f"unknown to this version of xfer ({__version__}): {what}" if what else None
