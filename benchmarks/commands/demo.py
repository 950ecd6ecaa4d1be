"""What `xfer demo` does: the main job, end to end, on CartPole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import bench as bench
from benchmarks.commands import bench_options, recommend
from export.commands import export, verify
from xfer.commands import Common


@dataclass(kw_only=True)
class Args(Common):
    """Train a ResNet on CartPole from pixels, export it, verify it, measure it, and choose a variant.

    What is done already is kept, so the same command continues a demo that was interrupted.

    Example commands:
      xfer demo
      xfer demo --weights imagenet --output runs/imagenet
    """

    output: Path = Path("runs/cartpole")
    """Folder of the run; the bundle and the report come to lie beside it."""
    weights: str = "none"
    """The network's weights; none needs no download."""
    seed: int = 0
    """Seed of everything."""


def main(args: Args) -> dict[str, Any]:
    """Run the stages one after the other, and return what each of them returns."""
    from rich.console import Console

    from xfer import train

    console = Console()
    bundle = args.output.with_name(args.output.name + ".bundle")
    report = args.output.with_name(args.output.name + ".report")
    results = {}
    console.rule("1/5 train")
    results["train"] = train("cartpole", output=args.output, weights=args.weights, seed=args.seed).summary()
    console.rule("2/5 export")
    results["export"] = export.main(export.Args(source=str(args.output)))
    console.rule("3/5 verify")
    results["verify"] = verify.main(verify.Args(bundle=bundle))
    console.rule("4/5 bench")
    results["bench"] = bench.main(bench_options.Args(bundle=bundle, quick=True, output=report))
    console.rule("5/5 recommend")
    results["recommend"] = recommend.main(recommend.Args(bundle=bundle, allow_provisional=True))
    console.print(f"Look at {report / 'report.html'}, and watch it: xfer run {bundle} --variant onnx-int8")
    return results
