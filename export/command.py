"""What `xfer export` does: make a bundle of a trained run."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from export import target
from export.bundle import Build
from export.target import ExportOptions, Variant
from xfer.arguments import Common
from xfer.errors import UsageError

DEFAULT_TARGETS = "eager,torchscript,onnx,tensorrt"
GOLDEN_STRETCHES, GOLDEN_FRAMES = 3, 21
"""Golden trajectories: so many beginnings of episodes, of so many frames each (64 frames at most)."""


@dataclass(kw_only=True)
class Args(Common):
    """Make a bundle of a trained run: every variant in a folder of its own, golden trajectories, one manifest.

    What has not changed since the last export is skipped. A variant that fails does not stop the others.

    Example commands:
      xfer export runs/cartpole
      xfer export runs/cartpole --targets eager,onnx-int8 --output robot.bundle
      xfer export runs/cartpole --targets tensorrt-fp16 --compute-capabilities 86 89
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished `xfer train`."""
    targets: str = DEFAULT_TARGETS
    """Comma-separated targets or variants: torchscript, onnx-int8 ..."""
    output: Path | None = None
    """The bundle (default: RUN.bundle)."""
    max_batch: int = 8
    """Largest batch of TensorRT's optimization profile."""
    compute_capabilities: tuple[str, ...] = ExportOptions().compute_capabilities
    """GPUs that TensorRT-RTX engines are built for; plain TensorRT builds for the GPU at hand."""


def main(args: Args) -> dict[str, Any]:
    """Export, and return the object that ``--json`` prints."""
    variants = target.expand(args.targets)
    if not variants:
        raise UsageError(f"--targets names nothing. Choose from: {', '.join(target.names())}.")
    if places := [str(variant) for variant in variants if variant.place]:
        raise UsageError(f"{places[0]} says where to run; leave out the @ to export.")
    if missing := target.load("eager").available():
        raise UsageError(f"A run is exported where it was trained: {missing}")

    from rich.console import Console

    from export.build import export_policy
    from xfer.run_folder import RunFolder

    folder = RunFolder(args.run)
    policy = folder.policy()
    held_out = folder.observations("held-out")
    output = args.output or args.run.with_name(args.run.name + ".bundle")
    console = Console()
    with console.status("exporting") as status:

        def on_start(variant: Variant) -> None:
            status.update(f"exporting {variant}")

        def on_build(build: Build, cached: bool) -> None:
            console.print(describe(build, cached))

        results = export_policy(
            policy,
            policy.spec,
            folder.observations("calibration"),
            golden_observations(held_out.episodes(), held_out),
            variants,
            output,
            run=str(args.run.resolve()),
            options=ExportOptions(args.max_batch, tuple(args.compute_capabilities)),
            command=shlex.join(["xfer", *sys.argv[1:]]),
            on_start=on_start,
            on_build=on_build,
        )
    console.print(f"[bold]{output}[/]  Next: xfer verify {output}; xfer bench {output}")
    return {
        "bundle": str(output),
        "variants": [
            {
                "variant": build.variant,
                "status": build.status,
                "reason": build.reason,
                "seconds": round(build.seconds, 2),
                "size_bytes": build.size_bytes,
                "cached": cached,
            }
            for build, cached in results
        ],
    }


def golden_observations(episodes: list[slice], held_out: Any) -> Any:
    """Return the beginnings of a few episodes: several steps and a reset, 64 frames at most."""
    parts = [slice(e.start, min(e.stop, e.start + GOLDEN_FRAMES)) for e in episodes[:GOLDEN_STRETCHES]]
    return held_out.take(parts)


def describe(build: Build, cached: bool) -> str:
    """Return one line about a build, in rich's markup."""
    if build.status != "built":
        return f"  [yellow]{build.status:<11}[/] {build.variant}: {build.reason}"
    size = f"{build.size_bytes / 1e6:.1f} MB"
    how = "unchanged" if cached else f"{build.seconds:.1f} s"
    return f"  [green]built[/]       {build.variant}: {size}, {how}" + (f" ({build.notes})" if build.notes else "")
