"""xfer's own bundle, with this one variant in it: what `Bundle` and the C++ runtime read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter

SUFFIX = ".bundle"
TARGETS = None


def write(output: Path, bundle: Bundle, build: Build) -> None:
    """Write the variant's files, the spec, and the golden trajectories.

    Records are left out: they belong to the machine that they were made on.
    """
    source = bundle.check(build)
    writer = BundleWriter(output)
    writer.begin(bundle.spec, bundle.manifest.provenance, bundle.golden, bundle.reference)
    with writer.temporary_folder() as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        writer.add(replace(build, folder="", files={}), folder)
