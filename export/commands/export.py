"""What `xfer export` does: make a bundle of a policy."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from export import targets
from export.commands.console import as_row, describe_build
from export.targets import ExportOptions, ExportRequest, Variant
from xfer import tasks
from xfer.commands import Common
from xfer.errors import UsageError

if TYPE_CHECKING:
    from export.importers import Source

DEFAULT_TARGETS = "eager,torchscript,onnx-fp32,onnx-int8,tensorrt"


@dataclass(kw_only=True)
class Args(Common):
    """Make a bundle of a policy: every variant in a folder of its own, golden trajectories, one manifest.

    What has not changed since the last export is skipped. A variant that fails does not stop the others.

    Example commands:
      xfer export runs/cartpole
      xfer export runs/cartpole --targets eager,onnx-int8 --output robot.bundle
      xfer export runs/cartpole --targets tensorrt-fp16 --compute-capabilities 86 89
      xfer export --targets tensorrt-fp16 --into robot.bundle         (on the robot: no torch needed)
      xfer export runs/cartpole --targets onnx-int8 --repair          (layers that int8 spoils stay in float)
      xfer export my_policies:make --observations met.safetensors     (your own nn.Module)
      xfer export my_policies:make --task my_policies:task            (it acts in your task)
      xfer export model.zip --from sb3 --trust --task env:CartPole-v1
      xfer export model.zip --from sb3 --trust --vecnormalize vecnormalize.pkl --frame-stack 4 --task env:Pendulum-v1
    """

    source: Annotated[str | None, tyro.conf.Positional] = None
    """The policy: a folder of a finished `xfer train`; module:function, which returns an export.Deployable; or a file
    (--from)."""
    targets: str = DEFAULT_TARGETS
    """Comma-separated targets or variants: torchscript, onnx-int8 ..."""
    output: Path | None = None
    """The bundle (default: SOURCE.bundle)."""
    into: Path | None = None
    """Build TensorRT engines for the GPU at hand from the ONNX in this bundle, in place of those that it has."""
    max_batch: int = 8
    """Largest batch of TensorRT's optimization profile, and of an ExecuTorch program."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs that TensorRT-RTX engines are built for (default: 80 86 89 120; with --into, the GPU at hand). Plain
    TensorRT builds for the GPU at hand."""
    repair: bool = False
    """Verify int8 variants (numbers and actions); where one is rejected, leave as few of its layers in float as it
    takes. What was repaired stays so, also without this option."""
    observations: Path | None = None
    """Observations that somebody's own policy met (.safetensors or .safetensors.gz: resets, bool [T], and
    observations.NAME, [T, ...]); by default they are recorded in its task."""
    task: str | None = None
    """Where somebody's own policy acts: env:ENV_ID is a Gymnasium environment's own observations; any other task, your
    own module:function too."""
    format: Annotated[Literal["sb3"] | None, tyro.conf.arg(name="from")] = None
    """What wrote the file: sb3 is Stable-Baselines3's PPO, DQN or SAC."""
    trust: bool = False
    """The file's author may run code here: it holds pickles."""
    vecnormalize: Path | None = None
    """SB3: the file that VecNormalize.save wrote."""
    frame_stack: int = 1
    """SB3: what VecFrameStack was given."""
    control_hz: float | None = None
    """Rate at which an SB3 policy acts, in Hz (default: its task's, or 30)."""


def main(args: Args) -> dict[str, Any]:
    """Export, and return the object that ``--json`` prints."""
    variants = targets.expand(args.targets)
    if not variants:
        raise UsageError(f"--targets names nothing. Choose from: {', '.join(targets.names())}.")
    if places := [str(variant) for variant in variants if variant.place]:
        raise UsageError(f"{places[0]} says where to run; leave out the @ to export.")
    if args.into is not None:
        return export_into(args, args.into, variants)
    if missing := targets.load("eager").available():
        raise UsageError(f"A policy is exported where PyTorch is: {missing}")
    if args.source is None:
        raise UsageError("Name what to export: a run's folder, module:function, or a file. See xfer export --help.")
    tasks.trust(args.task)

    from rich.console import Console

    from export.build import Builder

    console = Console()
    with console.status("reading the policy") as status:
        source, output = open_source(args, args.source)
        options = ExportOptions(args.max_batch, args.compute_capabilities or ExportOptions().compute_capabilities)
        request = ExportRequest(source.policy, source.policy.spec, source.calibration, options)
        command = shlex.join(["xfer", *sys.argv[1:]])
        builder = Builder(request, source.golden, output, run=str(source.folder.resolve()), command=command)
        results = {}
        for variant in variants:
            status.update(f"exporting {variant}")
            results[variant] = builder.build(variant)
            console.print(describe_build(*results[variant]))
    found: dict[str, Any] = {}
    if args.repair:
        from export.commands.export_repair import repair_bundle

        def rebuild(variant: Variant, float_layers: tuple[str, ...]) -> None:
            results[variant] = builder.build(variant, float_layers)
            console.print(describe_build(*results[variant]))

        found["repairs"] = repair_bundle(output, request, variants, source.held_out, rebuild, console)
    console.print(f"[bold]{output}[/]  Next: xfer verify {output}; xfer bench {output}")
    return {"bundle": str(output), "variants": [as_row(*result) for result in results.values()], **found}


def export_into(args: Args, bundle: Path, variants: list[Variant]) -> dict[str, Any]:
    """Build engines into a bundle, and return the object that ``--json`` prints.

    Raises:
        UsageError: If a policy is named as well, or a variant is not TensorRT's.
        XferError: See ``build_into``.
    """
    from rich.console import Console

    from export.rebuild import build_into

    if args.source is not None or args.repair or args.output is not None:
        raise UsageError("--into takes the graph from the bundle: leave out the policy, --output and --repair.")
    console = Console()
    with console.status("building"):
        results = build_into(
            bundle,
            variants,
            max_batch=args.max_batch,
            compute_capabilities=args.compute_capabilities,
            command=shlex.join(["xfer", *sys.argv[1:]]),
            on_build=lambda build, cached: console.print(describe_build(build, cached)),
        )
    console.print(f"[bold]{bundle}[/]  Next: xfer verify {bundle}; xfer bench {bundle}; xfer recommend {bundle}")
    return {"bundle": str(bundle), "variants": [as_row(*result) for result in results]}


def open_source(args: Args, name: str) -> tuple[Source, Path]:
    """Return the policy with what it met, and where its bundle goes.

    Raises:
        UsageError: If an option does not fit the source, or the source is refused.
        XferError: If it cannot be read.
    """
    path = Path(name)
    foreign = ("observations", "task")
    only_sb3 = ("trust", "vecnormalize", "frame_stack", "control_hz")
    if args.format is None:
        _unused(args, only_sb3, "needs --from sb3")
    if path.is_dir() or (args.format is None and ":" not in name and not path.exists()):
        _unused(args, ("format", *foreign), f"does not fit {name}, the folder of an `xfer train`")
        from export.importers import run

        return run.load(path), args.output or path.with_name(path.name + ".bundle")
    from export.importers import _recordings
    from export.importers.module import load

    if args.format == "sb3":
        from export.importers import sb3

        policy = sb3.load(
            path,
            trust=args.trust,
            vecnormalize=args.vecnormalize,
            frame_stack=args.frame_stack,
            task=args.task or "",
            control_hz=args.control_hz,
        )
        output = args.output or path.with_suffix(".bundle")
    elif path.exists():
        raise UsageError(f"{name} is a file: say what wrote it, as in --from sb3.")
    else:
        policy = load(name)
        if args.task:
            policy = replace(policy, spec=replace(policy.spec, task=args.task))
        output = args.output or Path(name.partition(":")[2] + ".bundle")
    return _recordings.gather(policy, name, output.with_suffix(".run"), args.observations), output


def _unused(args: Args, names: tuple[str, ...], why: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        UsageError: With the first that was given.
    """
    for name in names:
        if getattr(args, name) != Args.__dataclass_fields__[name].default:
            raise UsageError(f"--{ {'format': 'from'}.get(name, name).replace('_', '-') } {why}.")
