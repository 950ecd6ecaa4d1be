"""What `xfer pack` does: the smallest bundle that ships."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from export.bundle import Bundle
from export.target import Variant
from export.writer import BundleWriter
from xfer.arguments import Common
from xfer.errors import UsageError


@dataclass(kw_only=True)
class Args(Common):
    """Make the smallest bundle that ships one variant: its files, the spec, and the golden trajectories.

    The robot reads, verifies (numbers and actions) and runs it as it does the whole one. What this machine found out
    about the variant stays here: a record is of the machine that it was made on.

    Example commands:
      xfer pack runs/cartpole.bundle --variant onnx-int8
      xfer pack runs/cartpole.bundle --variant onnx-int8 --output robot.bundle
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    """The bundle."""
    variant: str
    """TARGET-PRECISION."""
    output: Path | None = None
    """The new bundle (default: BUNDLE-VARIANT.bundle, beside the old one)."""


def main(args: Args) -> dict[str, Any]:
    """Pack, and return the object that ``--json`` prints.

    Raises:
        UsageError: If the variant says where to run, is not in the bundle, or the output is the bundle itself.
        BundleError: If the bundle is damaged, or the output is something else.
    """
    from rich.console import Console

    variant = Variant.parse(args.variant)
    if variant.place:
        raise UsageError(f"{variant} says where to run; leave out the @ to pack.")
    bundle = Bundle(args.bundle)
    build = bundle.build(variant.build)
    bundle.check(build)
    output = args.output or bundle.path.with_name(f"{bundle.path.stem}-{variant.build}.bundle")
    if output.resolve() == bundle.path.resolve():
        raise UsageError(f"--output {output} is the bundle itself. Choose another one.")
    writer = BundleWriter(output)
    writer.begin(bundle.spec, bundle.manifest.provenance, bundle.golden())
    with writer.temporary_folder() as folder:
        shutil.copytree(bundle.path / build.folder, folder, dirs_exist_ok=True)
        writer.add(replace(build, folder="", files={}), folder)
    sizes = [sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in (output, bundle.path)]
    Console().print(f"{output}: {variant.build}, {sizes[0] / 1e6:.1f} MB of {sizes[1] / 1e6:.1f} MB", markup=False)
    return {"bundle": str(output), "variant": variant.build, "size_bytes": sizes[0]}
