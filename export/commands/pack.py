"""What `xfer pack` does: the smallest bundle that ships."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter
from export.formats.leapp import write_leapp
from export.targets import Variant, onnx
from xfer.commands import Common
from xfer.errors import UsageError


@dataclass(kw_only=True)
class Args(Common):
    """Make the smallest bundle that ships one variant: its files, the spec, and the golden trajectories.

    The robot reads, verifies (numbers and actions) and runs it as it does the whole one. What this machine found out
    about the variant stays here: a record is of the machine that it was made on.

    Example commands:
      xfer pack runs/cartpole.bundle --variant onnx-int8
      xfer pack runs/cartpole.bundle --variant onnx-int8 --output robot.bundle
      xfer pack runs/cartpole.bundle --variant onnx-fp32 --format leapp
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    """The bundle."""
    variant: str
    """TARGET-PRECISION."""
    output: Path | None = None
    """The new bundle (default: BUNDLE-VARIANT.bundle or .leapp, beside the old one)."""
    format: Literal["xfer", "leapp"] = "xfer"
    """leapp: for NVIDIA's Isaac ROS Deploy; of an onnx variant, and only the policy itself."""


def main(args: Args) -> dict[str, Any]:
    """Pack, and return the object that ``--json`` prints.

    Raises:
        UsageError: If the variant says where to run, is not in the bundle or not of the format, or the output is the
            bundle itself.
        BundleError: If the bundle is damaged, or the output is something else.
    """
    from rich.console import Console

    variant = Variant.parse(args.variant)
    if variant.place:
        raise UsageError(f"{variant} says where to run; leave out the @ to pack.")
    if args.format == "leapp" and variant.target != "onnx":
        raise UsageError(f"--format leapp packs ONNX graphs, and {variant} is none: use onnx-fp32 or onnx-int8.")
    bundle = Bundle(args.bundle)
    build = bundle.build(variant.build)
    folder = bundle.check(build)
    suffix = "bundle" if args.format == "xfer" else args.format
    output = args.output or bundle.path.with_name(f"{bundle.path.stem}-{variant.build}.{suffix}")
    if output.resolve() == bundle.path.resolve():
        raise UsageError(f"--output {output} is the bundle itself. Choose another one.")
    if args.format == "leapp":
        write_leapp(output, (folder / onnx.FILE).read_bytes(), bundle.spec)
    else:
        _write_bundle(output, bundle, build)
    sizes = [sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in (output, bundle.path)]
    Console().print(f"{output}: {variant.build}, {sizes[0] / 1e6:.1f} MB of {sizes[1] / 1e6:.1f} MB", markup=False)
    return {"bundle": str(output), "variant": variant.build, "size_bytes": sizes[0]}


def _write_bundle(output: Path, bundle: Bundle, build: Build) -> None:
    writer = BundleWriter(output)
    writer.begin(bundle.spec, bundle.manifest.provenance, bundle.golden)
    with writer.temporary_folder() as folder:
        shutil.copytree(bundle.path / build.folder, folder, dirs_exist_ok=True)
        writer.add(replace(build, folder="", files={}), folder)
