"""What `xfer export` does: make a bundle of a policy, or rebuild a bundle's engines on the device."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from export.build import DEFAULT_TARGETS, MAX_MEMORY, ExportResult, buildable, export
from export.bundle.manifest import Build
from export.commands.console import (
    build_lines,
    build_row,
    next_lines,
    reason_lines,
    repair_lines,
    repair_row,
    show,
    wrapped,
)
from export.importers import ImportOptions
from export.rebuild import rebuild
from export.targets import ExportOptions
from xfer.commands import Episodes, truncates
from xfer.errors import CheckFailed, UsageError


@dataclass(kw_only=True)
class Args(Episodes):
    r"""Make a bundle of a policy: a folder with all of its variants.

    What has not changed since the last export is skipped.

    A variant that fails stops no other, and a build that is whole stays.

    Example commands:
      xfer export runs/cartpole
      xfer export runs/cartpole --targets eager,onnx-int8 --output robot.bundle
      xfer export runs/cartpole --targets tensorrt --compute-capabilities 86 89

    Rebuild engines on the device, where no torch is needed:
      xfer export --targets tensorrt-fp16 --into robot.bundle

    Leave the layers that int8 spoils in float:
      xfer export runs/cartpole --targets onnx-int8 --repair

    Your own nn.Module, with recorded observations or in your task:
      xfer export my_policies:make --observations recorded.safetensors
      xfer export my_policies:make --task my_policies:task

    A policy of Stable-Baselines3:
      xfer export model.zip --from sb3 --trust --task env:CartPole-v1
      xfer export model.zip --from sb3 --trust --vecnormalize normalize.pkl \
        --frame-stack 4 --task env:Pendulum-v1

    A policy of LeRobot:
      xfer export outputs/train/act/checkpoints/last/pretrained_model \
        --from lerobot --observations recorded.safetensors

    Anybody's ONNX graph (rsl_rl, ML-Agents ...), described by a spec.json:
      xfer spec policy.onnx
      xfer export policy.onnx --spec spec.json --observations recorded.safetensors
    """

    source: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = None
    """The policy: a folder of a finished `xfer train`; module:function, which returns an export.Deployable; or what
    another library saved (--from)."""
    targets: str = DEFAULT_TARGETS
    """Comma-separated targets or variants: torchscript, onnx-int8 ... Of an ONNX graph, the default leaves out what
    needs PyTorch."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The bundle (default: SOURCE.bundle)."""
    into: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Rebuild TensorRT engines on this device, from the ONNX in this bundle. They take the place of those in it."""
    max_batch: int = ExportOptions().max_batch
    """Largest batch of TensorRT's optimization profile, and of an ExecuTorch program."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs that TensorRT-RTX engines are built for (default: 80 86 89 120; with --into, this device's GPU). Plain
    TensorRT builds for this device's GPU."""
    opset: int = ExportOptions().opset
    """Version of ONNX's operators, 18 or more. 18 and 19 are read by ONNX Runtime 1.16, 20 by 1.17, 21 by 1.18."""
    repair: bool = False
    """Verify int8 variants (numbers and actions); where one is rejected, leave as few of its layers in float as it
    takes. What was repaired stays so, also without this option."""
    max_memory: Annotated[float, tyro.conf.arg(metavar="GB")] = MAX_MEMORY
    """How much of the recorded observations may be in memory at once. More stay in their file, and are read from there:
    that takes longer."""
    importing: ImportOptions = field(default_factory=ImportOptions)


@truncates
def main(args: Args) -> dict[str, Any]:
    """Export, and return the object that ``--json`` prints.

    Raises:
        CheckFailed: If a variant that the bundle has could not be built anew.
        XferError: See ``export``.
    """
    from rich.console import Console

    if args.into is not None:
        return rebuild_into(args, args.into)
    if args.source is None:
        buildable(args.targets)
        raise UsageError("Name what to export: a run's folder, module:function, or a file. See xfer export --help.")
    with Console().status("") as status:
        result = export(
            args.source,
            args.targets,
            args.output,
            importing=args.importing,
            options=ExportOptions(
                args.max_batch, args.compute_capabilities or ExportOptions().compute_capabilities, opset=args.opset
            ),
            repair=args.repair,
            max_memory=args.max_memory,
            command=_command(),
            on_step=status.update,
            on_note=lambda text: show(wrapped(text, hanging="  ")),
            on_build=lambda build, cached: show(build_lines(build, cached)),
            on_repair=lambda repaired: show(repair_lines(repaired)),
        )
    show(reason_lines((build.variant, build.reason) for build, _ in result.builds))
    show(next_lines(str(result.path), "xfer verify", "xfer bench"))
    repairs = [repair_row(repaired) for repaired in result.repairs if not repaired.impossible]
    found = {**answer(result), **({"repairs": repairs} if args.repair else {})}
    if failures := result.not_rebuilt:
        raise CheckFailed(". ".join(f"{build.variant} was not built anew: {build.reason}" for build in failures), found)
    return found


def answer(result: ExportResult) -> dict[str, Any]:
    """Return what ``--json`` prints of an export."""
    return {"bundle": str(result.path), "variants": [build_row(*built) for built in result.builds]}


def rebuild_into(args: Args, bundle: Path) -> dict[str, Any]:
    """Rebuild a bundle's engines on this device, and return the object that ``--json`` prints.

    Raises:
        UsageError: If a policy is named as well, or a variant is not TensorRT's.
        XferError: See ``rebuild``.
    """
    from rich.console import Console

    variants = buildable(args.targets)
    if args.source is not None or args.repair or args.output is not None:
        raise UsageError("--into takes the graph from the bundle: leave out the policy, --output and --repair.")

    def on_build(build: Build, cached: bool) -> None:
        show(build_lines(build, cached))

    with Console().status("building"):
        results = rebuild(
            bundle,
            variants,
            max_batch=args.max_batch,
            compute_capabilities=args.compute_capabilities,
            command=_command(),
            on_build=on_build,
        )
    show(next_lines(str(bundle), "xfer verify", "xfer bench", "xfer recommend"))
    return {"bundle": str(bundle), "variants": [build_row(*result) for result in results]}


def _command() -> str:
    """Return the command line of this process, for the manifest."""
    return shlex.join(["xfer", *sys.argv[1:]])
