"""What `xfer pack` does: the smallest bundle that ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from export import formats
from export.bundle.reader import Bundle
from xfer.commands import Common

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = tyro.extras.literal_type_from_choices(formats.names())


@dataclass(kw_only=True)
class Args(Common):
    """Make the smallest bundle that ships one variant.

    It holds the variant's files, the spec, and the golden trajectories.

    The robot reads, verifies (numbers and actions) and runs it like the whole one.

    Records are left out: they belong to the machine that they were made on.

    Example commands:
      xfer pack runs/cartpole.bundle --variant onnx-int8
      xfer pack runs/cartpole.bundle --variant onnx-int8 --output robot.bundle
      xfer pack runs/cartpole.bundle --variant onnx-fp32 --format leapp
    """

    bundle: Annotated[Path, tyro.conf.Positional]
    """The bundle."""
    variant: str
    """TARGET-PRECISION."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The new bundle (default: BUNDLE-VARIANT.bundle or .leapp, beside the old one)."""
    format: FormatName = "xfer"
    """leapp: for NVIDIA's Isaac ROS Deploy; of an onnx variant, and only the policy itself."""


def main(args: Args) -> dict[str, Any]:
    """Pack, and return the object that ``--json`` prints."""
    bundle = Bundle(args.bundle)
    output = formats.pack(bundle, args.variant, args.output, args.format)
    packed, whole = _size(output), _size(bundle.path)
    print(f"{output}: {args.variant}, {packed / 1e6:.1f} MB of {whole / 1e6:.1f} MB")
    return {"bundle": str(output), "variant": args.variant, "size_bytes": packed}


def _size(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
