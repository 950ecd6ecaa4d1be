"""What only a GPU can show: a policy is trained on it, becomes TensorRT engines, and acts and is fast there.

One command, for whoever has a GPU: it trains with ``torch.compile`` and bf16 (cartpole by imitation, and a little PPO
with CUDA graphs), exports, verifies against eager on the CPU, measures, and leaves the usual report.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bench import bench
from benchmarks.claims import Options, Outcome
from benchmarks.measure import protocol
from benchmarks.report.conclusion import conclude
from benchmarks.report.decision import Limits
from benchmarks.report.rows import Row
from benchmarks.report.write import write
from export.bundle.record import PROVEN
from export.libraries.cores import default_threads
from xfer.errors import UnavailableError

TARGETS = "eager,torchscript,onnx,tensorrt"
ON_GPU = ("eager-fp32@cuda", "torchscript-fp32@cuda", "onnx-fp32@cuda")
CLAIM = (
    "On an NVIDIA GPU, a policy that was trained there with torch.compile and bf16 becomes TensorRT engines that act as"
    " eager PyTorch does, and the fastest of them is faster than eager on the same GPU."
)


def reproduce(options: Options) -> Outcome:
    """Train, export, verify and measure; what was finished before is not done again.

    Raises:
        UnavailableError: If PyTorch sees no GPU.
    """
    import torch

    from export import export, verify
    from xfer import train

    if not torch.cuda.is_available():
        raise UnavailableError("gpu needs an NVIDIA GPU with its driver: PyTorch sees none here.")
    run, bundle = options.folder / "cartpole", options.folder / "cartpole.bundle"
    common: dict[str, Any] = {"weights": "none", "device": "cuda", "amp": "bf16", "compile": True, "seed": options.seed}
    rounds: dict[str, Any] = {"rounds": options.runs} if options.runs else {}
    imitated = train("cartpole", output=run, **rounds, **common).summary()
    reinforced = train(
        "cartpole",
        output=options.folder / "ppo",
        algorithm="ppo",
        rounds=1,
        total_frames=8 * 1024,
        compile_mode="reduce-overhead",
        **common,
    ).summary()
    export(run, TARGETS, bundle)
    names = list(verify(bundle))
    on_gpu = verify(bundle, [name for name in ON_GPU if name.partition("@")[0] in names])
    variants = [*names, *on_gpu]
    quick, limits = protocol.quick(default_threads()), Limits(allow_provisional=True)
    report = bench(bundle, variants, quick, limits=limits, command="xfer reproduce gpu")
    paths = write(report, conclude(report), options.folder / "report")
    rows = judge([row for row in report.rows if not row.whole_backbone])
    notes = (
        f"{torch.cuda.get_device_name()}: imitation {imitated['frames_per_second']:g} frames/s, mean return"
        f" {imitated['eval_return_mean']:.1f}; PPO {reinforced['frames_per_second']:g} frames/s.",
        f"Report: {paths['html']}",
    )
    return Outcome(tuple(rows), notes)


def judge(rows: list[Row]) -> list[dict[str, Any]]:
    """Say of each variant whether it is as claimed.

    Args:
        rows: Of a bench.

    Returns:
        A row each. An engine holds if it is proven; the fastest engine also has to beat eager on the GPU. Others are
        only listed.
    """
    p50 = {row.variant: row.p50_ms for row in rows}
    engines = [row for row in rows if row.variant.startswith("tensorrt-")]
    fastest = min((row.p50_ms for row in engines if row.p50_ms is not None), default=None)
    eager = p50.get("eager-fp32@cuda")
    faster = fastest is not None and eager is not None and fastest < eager
    found: list[dict[str, Any]] = []
    for row in rows:
        proven = row.status in PROVEN and row.p50_ms is not None
        holds = proven and (faster or row.p50_ms != fastest) if row in engines else True
        figures = {"p50_ms": row.p50_ms, "speedup": row.speedup}
        found.append({"variant": row.variant, "status": row.status, **figures, "holds": holds})
    if not engines:
        found.append({"variant": "tensorrt", "status": "missing", "p50_ms": None, "speedup": None, "holds": False})
    return found
