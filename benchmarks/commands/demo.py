"""What `xfer demo` does: the main job, end to end, on CartPole."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import recommend
from benchmarks.measure import protocol
from benchmarks.report.decision import Limits
from export.commands import export as export_command
from export.commands import verify as verify_command
from export.commands.console import build_lines, show, verdict_lines
from export.libraries.cores import default_threads
from export.verification.verify import DEFAULT_PAIRS
from xfer.commands import Common
from xfer.commands.train import show as show_training


@dataclass(kw_only=True)
class Args(Common):
    """Train a ResNet on CartPole from pixels, export it, verify it, measure it, and choose a variant.

    What is done already is kept, so the same command continues a demo that was interrupted.

    Example commands:
      xfer demo
      xfer demo --weights imagenet --output runs/imagenet
    """

    output: Path = Path("runs/cartpole")
    """Folder of the run; the bundle and the report are written beside it."""
    weights: str = "none"
    """The network's weights; none needs no download."""
    seed: int = 0
    """Seed of everything."""


def main(args: Args) -> dict[str, Any]:
    """Run the stages one after the other, and return what each of them returns.

    A demo has no time for the episodes that a proof takes, so provisional variants are allowed.
    """
    from rich.console import Console

    from benchmarks.bench import bench, check_libraries
    from benchmarks.commands.bench import answer
    from benchmarks.report import progress, terminal
    from benchmarks.report.conclusion import conclude, decide
    from benchmarks.report.write import write
    from export import export, verify
    from xfer import train

    check_libraries()
    console = Console()
    bundle = args.output.with_name(args.output.name + ".bundle")
    folder = args.output.with_name(args.output.name + ".report")
    results = {}
    console.rule("1/5 train")
    trained = train("cartpole", output=args.output, weights=args.weights, seed=args.seed)
    show_training(trained, console)
    results["train"] = trained.summary()
    console.rule("2/5 export")
    exported = export(
        args.output,
        command=shlex.join(["xfer", "export", str(args.output)]),
        on_build=lambda build, cached: show(build_lines(build, cached)),
    )
    results["export"] = export_command.answer(exported)
    console.rule("3/5 verify")
    with verify_command.progress(console, DEFAULT_PAIRS) as (on_variant, on_pairs):
        verdicts = verify(bundle, on_variant=on_variant, on_pairs=on_pairs)
    show(verdict_lines(verdicts))
    results["verify"] = verify_command.answer(verdicts)
    console.rule("4/5 bench")
    quick, limits = protocol.quick(default_threads()), Limits(allow_provisional=True)
    command = shlex.join(["xfer", "bench", str(bundle), "--quick", *limits.options(), "--output", str(folder)])
    with progress.bar() as on_step:
        report = bench(bundle, protocol=quick, limits=limits, command=command, on_step=on_step)
    findings = conclude(report)
    paths = write(report, findings, folder)
    terminal.show(report, findings, paths)
    results["bench"] = answer(report, paths)
    console.rule("5/5 recommend")
    results["recommend"] = recommend.answer(decide(report))
    console.print("Provisional variants are allowed here: xfer verify --full runs the episodes that a proof takes.")
    console.print(f"See {terminal.shortest(paths['html'])}, and watch it act:")
    console.print(f"  xfer run {bundle} --variant {results['recommend']['variant']}", soft_wrap=True)
    return results
