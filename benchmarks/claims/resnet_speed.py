"""How much faster the textbook's network runs: a whole ResNet-18 at 224 px, from the camera's frame to the action.

Random weights compute as long as trained ones. The frames, those that int8 is calibrated on too, are what a policy
meets that acts by chance in cartpole. What is measured, and how, is ``xfer bench``; its report is kept.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.claims import Args, Outcome
from benchmarks.commands import bench as bench
from benchmarks.commands import bench_options
from benchmarks.measure.whole_backbone import whole_policy
from export.bundle.reader import Bundle
from export.targets import BASELINE, expand, names
from xfer.errors import UnavailableError
from xfer.runner import Arrays, Runner, Step
from xfer.spec import ImageConfig, PolicySpec
from xfer.trajectories import Trajectories

SHOWS_PROGRESS = True
TASK, THREADS = "cartpole", 2
IMAGE = ImageConfig(crop=(112, 336, 188, 412), gray=False, frames=1)
"""The 224 x 224 pixels in the middle that cart and pole are in, in color, one frame at a time."""

FLOORS = {
    "torchscript-fp32": 1.2,
    "aotinductor-fp32": 1.5,
    "onnx-fp32": 1.8,
    "openvino-fp32": 1.8,
    "executorch-int8": 3.3,
    "onnx-int8": 4.5,
    "openvino-int8": 5.5,
}
BESIDE = ("executorch-fp32",)
"""What is measured too, with no claim."""

CALIBRATION, GOLDEN, STRETCH = 64, 24, 12
"""Frames that int8 is calibrated on, frames that are timed, and the longest stretch of an episode."""

SIDE, PRODUCTS = 1024, 60
"""Size of the square matrices whose product shows the processor's fp32 rate, and how many products."""

QUICK = False
CLAIM = (
    f"A whole ResNet-18 at 224 px on {TASK}'s 400x600 frames, batch 1, {THREADS} threads, raw frame to action, is at"
    " least so many times as fast as eager (contiguous, inference_mode): "
    + ", ".join(f"{name} {floor:g}" for name, floor in reversed(FLOORS.items()))
    + "."
)


class Chance:
    """A session that scores actions by chance."""

    def __init__(self, spec: PolicySpec, seed: int) -> None:
        self._spec, self._random = spec, np.random.default_rng(seed)

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Look at nothing."""
        scores = self._random.standard_normal((1, *self._spec.scores.shape), np.float32)
        return Step(scores.argmax(axis=1), scores, dict(states))


def reproduce(args: Args) -> Outcome:
    """Build what is not built yet, measure, and compare.

    Raises:
        UnavailableError: If PyTorch or the environment is missing.
        UsageError: If there are fewer cores than threads.
    """
    bench.check_libraries()
    bundle, notes = build(args)
    built = [name for name, one in bundle.builds.items() if one.status == "built"]
    report = args.folder / "report"
    measured = bench.main(
        bench_options.Args(
            bundle=bundle.path,
            variants=",".join(built),
            threads=args.threads or THREADS,
            rounds=args.runs,
            quick=QUICK,
            output=report,
            whole_backbone=False,
        )
    )
    rows = judge(measured["variants"])
    eager_ms = next((row["p50_ms"] for row in measured["variants"] if row["variant"] == BASELINE), None)
    if eager_ms is not None:
        rate = multiplications_per_second(args.threads or THREADS)
        notes.append(arithmetic_limit(rate, bundle.manifest.provenance.macs, eager_ms))
    notes += [f"Not measured: {row['variant']} ({row['reason']})." for row in measured["variants"] if not row["p50_ms"]]
    if any(row["disturbed_rounds"] for row in measured["variants"]):
        notes.append("Something else ran beside it: repeat this on a quiet machine before believing it.")
    if not rows:
        raise UnavailableError(f"Nothing to compare. {' '.join(notes)}")
    return Outcome(tuple(rows), (*notes, f"Report: {report / 'report.html'}"))


def multiplications_per_second(threads: int) -> float:
    """Return how many fp32 multiply-accumulates this processor does in a second: the best of many matrix products.

    Convolutions without Winograd's trick are such products too, so fp32 variants cannot be much faster.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        matrix = torch.rand(SIDE, SIDE)
        seconds = []
        for _ in range(PRODUCTS):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return float(SIDE**3 / min(seconds))


def arithmetic_limit(rate: float, macs: int, eager_ms: float) -> str:
    """Say about how much faster than eager fp32 can be at all on this processor, whoever computes it.

    Args:
        rate: Multiply-accumulates in a second.
        macs: Multiply-accumulates of one step.
        eager_ms: Eager's median.
    """
    limit_ms = 1000 * macs / rate
    return (
        f"Arithmetic limit: a product of large matrices reaches {rate / 1e9:.0f} GMAC/s in fp32 here. At that rate the"
        f" network's {macs / 1e6:,.0f} million MACs alone take {limit_ms:.1f} ms, about"
        f" {eager_ms / limit_ms:.2f} times as fast as eager. A claim far above that asks fp32 for more than"
        " the processor has."
    )


def build(args: Args) -> tuple[Bundle, list[str]]:
    """Export the network into the output folder; what is there already is kept.

    Returns:
        The bundle, and a note for each variant that cannot be built here.
    """
    from rich.console import Console

    from export.build import export_policy
    from xfer import tasks
    from xfer.models.config import PolicyConfig
    from xfer.models.policy import make_spec

    task = tasks.load(TASK)
    spec = make_spec(task, IMAGE, "values")
    policy = whole_policy(PolicyConfig("resnet18", "layer4", "average", 0, IMAGE), spec, args.seed)
    known = {str(variant): variant for variant in expand(",".join(names()))}
    wanted = (BASELINE, *FLOORS, *BESIDE)
    path = args.folder / "resnet18.bundle"
    with Console().status("exporting") as status:
        results = export_policy(
            policy,
            spec,
            frames(spec, CALIBRATION, args.seed),
            frames(spec, GOLDEN, args.seed + 1_000),
            [known[name] for name in wanted if name in known],
            path,
            run="random weights, for timing only",
            on_start=lambda variant: status.update(f"exporting {variant}"),
        )
    notes = [f"{name} was left out: xfer has no such target." for name in wanted if name not in known]
    notes += [f"{one.variant} was left out: {one.reason}" for one, _ in results if one.status != "built"]
    return Bundle(path), notes


def frames(spec: PolicySpec, count: int, seed: int) -> Trajectories:
    """Return what a policy that acts by chance meets, in stretches."""
    from xfer import tasks
    from xfer.evaluate import record

    return record(tasks.load(TASK), Runner(Chance(spec, seed), spec), seed, count, STRETCH)


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the claim is about of the rows of ``xfer bench``: those with a speed-up, the baseline left out."""
    found = []
    for row in rows:
        if row["variant"] == BASELINE or row["speedup"] is None:
            continue
        floor = FLOORS.get(row["variant"])
        found.append(
            {
                "variant": row["variant"],
                "p50_ms": row["p50_ms"],
                "times_eager": row["speedup"],
                "smallest_and_largest": row["speedup_spread"],
                "at_least": floor or "",
                "holds": floor is None or row["speedup"] >= floor,
            }
        )
    return found
