"""xfer's own bundle, with this one variant in it: what `Bundle` and the C++ runtime read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.bundle.access import copy_tree
from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter, References

SUFFIX = ".bundle"
TARGETS = None


def write(output: Path, bundle: Bundle, build: Build) -> None:
    """Write the variant's files, the spec, and what the live policy did.

    Records are left out: they belong to the machine that they were made on.
    """
    source = bundle.check(build)
    writer = BundleWriter(output)
    manifest = bundle.manifest
    observations = manifest.held_out.observations if manifest.held_out is not None else ""
    writer.begin(
        bundle.spec,
        manifest.provenance,
        lambda: References(bundle.golden(), bundle.held_out(), observations, manifest.spreads),
        bundle.reference,
    )
    with writer.temporary_folder() as folder:
        copy_tree(source, folder)
        writer.add(replace(build, folder="", files={}), folder)
