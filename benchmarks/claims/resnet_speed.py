"""How much faster the textbook network runs: a whole ResNet-18 at 224 px, from the camera's frame to the action.

Random weights take as long to compute as trained ones. The frames, also those that int8 is calibrated on, are recorded
from a policy that acts at random in cartpole. It is measured as ``xfer bench`` measures, and its report is kept.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.bench import bench, check_libraries
from benchmarks.claims import Options, Outcome
from benchmarks.measure import protocol
from benchmarks.measure.beside.whole_backbone import EAGER, whole_policy
from benchmarks.report import progress
from benchmarks.report.conclusion import conclude
from benchmarks.report.rows import Row
from benchmarks.report.write import write
from export.bundle.reader import Bundle
from export.targets import expand, names
from xfer.errors import UnavailableError
from xfer.runner import Arrays, Runner, Step
from xfer.spec import ImageConfig, PolicySpec
from xfer.trajectories import Trajectories

SHOWS_PROGRESS = True
TASK, THREADS = "cartpole", 2
IMAGE = ImageConfig(crop=(112, 336, 188, 412), gray=False, frames=1)
"""The 224 x 224 pixels in the middle that cart and pole are in, in color, one frame at a time."""

MIN_SPEEDUPS = {
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
    + ", ".join(f"{name} {floor:g}" for name, floor in reversed(MIN_SPEEDUPS.items()))
    + "."
)


class RandomSession:
    """A session that scores actions at random."""

    def __init__(self, spec: PolicySpec, seed: int) -> None:
        self._spec, self._random = spec, np.random.default_rng(seed)

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Ignore the observations."""
        scores = self._random.standard_normal((1, *self._spec.scores.shape), np.float32)
        return Step(scores.argmax(axis=1), scores, dict(states))


def reproduce(options: Options) -> Outcome:
    """Build what is not built yet, measure, and compare.

    Raises:
        UnavailableError: If PyTorch or the environment is missing.
        UsageError: If there are fewer cores than threads.
    """
    check_libraries()
    bundle, notes = build(options)
    built = [name for name, one in bundle.builds.items() if one.status == "built"]
    threads, form = options.threads or THREADS, protocol.quick if QUICK else protocol.full
    with progress.bar() as on_step:
        report = bench(
            bundle.path,
            built,
            form(threads, options.runs),
            whole_backbone=False,
            command=shlex.join(["xfer", "reproduce", "resnet-speed", "--output", str(options.folder)]),
            on_step=on_step,
        )
    paths = write(report, conclude(report), options.folder / "report")
    rows = judge(report.rows)
    eager_ms = next((row.p50_ms for row in report.rows if row.variant == EAGER), None)
    if eager_ms is not None:
        rate = multiplications_per_second(threads)
        notes.append(arithmetic_limit(rate, bundle.manifest.provenance.macs, eager_ms))
    notes += [f"Not measured: {row.variant} ({row.reason})." for row in report.rows if not row.p50_ms]
    if any(row.disturbed_rounds for row in report.rows):
        notes.append("Something else ran at the same time: repeat this on a quiet machine before relying on it.")
    if not rows:
        raise UnavailableError(f"Nothing to compare. {' '.join(notes)}")
    return Outcome(tuple(rows), (*notes, f"Report: {paths['html']}"))


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
        f" {eager_ms / limit_ms:.2f} times as fast as eager. A claim far above that is more than the"
        " processor can do in fp32."
    )


def build(options: Options) -> tuple[Bundle, list[str]]:
    """Export the network into the output folder; what is there already is kept.

    Returns:
        The bundle, and a note for each variant that cannot be built here.
    """
    from rich.console import Console

    from export.build import export_policy
    from xfer import tasks
    from xfer.models.config import PolicyConfig
    from xfer.models.contract import make_spec

    task = tasks.load(TASK)
    spec = make_spec(task, IMAGE, "values")
    policy = whole_policy(PolicyConfig("resnet18", "layer4", "average", 0, IMAGE), spec, options.seed)
    known = {str(variant): variant for variant in expand(",".join(names()))}
    wanted = (EAGER, *MIN_SPEEDUPS, *BESIDE)
    path = options.folder / "resnet18.bundle"
    with Console().status("exporting") as status:
        results = export_policy(
            policy,
            spec,
            frames(spec, CALIBRATION, options.seed),
            frames(spec, GOLDEN, options.seed + 1_000),
            [known[name] for name in wanted if name in known],
            path,
            run="random weights, for timing only",
            on_start=lambda variant: status.update(f"exporting {variant}"),
        )
    notes = [f"{name} was left out: xfer has no such target." for name in wanted if name not in known]
    notes += [f"{one.variant} was left out: {one.reason}" for one, _ in results if one.status != "built"]
    return Bundle(path), notes


def frames(spec: PolicySpec, count: int, seed: int) -> Trajectories:
    """Return what a policy that acts at random observes, in stretches."""
    from xfer import tasks
    from xfer.evaluate import record

    return record(tasks.load(TASK), Runner(RandomSession(spec, seed), spec), seed, count, STRETCH)


def judge(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what the claim is about of the rows of a bench: those with a speed-up, eager left out."""
    found = []
    for row in rows:
        if row.variant == EAGER or row.speedup is None:
            continue
        least = MIN_SPEEDUPS.get(row.variant)
        found.append(
            {
                "variant": row.variant,
                "p50_ms": row.p50_ms,
                "times_eager": row.speedup,
                "smallest_and_largest": row.speedup_spread,
                "at_least": least or "",
                "holds": least is None or row.speedup >= least,
            }
        )
    return found
