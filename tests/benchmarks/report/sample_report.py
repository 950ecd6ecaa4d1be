"""A whole report of made-up, plausible figures: everything that a page can show."""

import base64
import io
from dataclasses import replace

import numpy as np

from benchmarks.measure.alone.peak import Peak
from benchmarks.measure.alone.profile import Profile
from benchmarks.measure.alone.soak import Soak, SoakInterval
from benchmarks.measure.batch_sweep import BatchPoint
from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.interference import Interference
from benchmarks.measure.protocol import Measurement, Protocol
from benchmarks.report import data
from benchmarks.report.decision import Limits
from benchmarks.report.rows import Row, summarize
from export.bundle.machine import Machine
from export.bundle.manifest import Provenance
from export.bundle.verdicts import Divergence, Verification
from export.libraries.layers import Layer
from xfer.spec import RewardScale

PROTOCOL = Protocol(threads=2, rounds=10, passes=10, quick=True, starts=10, lead_in_seconds=0.015)
TYPICAL_MS = {
    "eager-fp32": 3.8,
    "eager-fp32@channels_last": 3.9,
    "torchscript-fp32": 2.4,
    "onnx-fp32": 1.4,
    "onnx-int8": 0.78,
}


def measured(name, milliseconds=None, seed=0, disturbed=0):
    random = np.random.default_rng(seed)
    typical = (milliseconds or TYPICAL_MS[name]) / 1000
    rounds = [tuple((typical * (0.8 + random.gamma(2, 0.1, 100))).tolist()) for _ in range(PROTOCOL.rounds)]
    watched = [Interference(0.9 if i < disturbed else 0.01, 0.0, 2450.0 + i) for i in range(PROTOCOL.rounds)]
    return Measurement(
        name,
        name,
        tuple(rounds),
        2,
        (0, 1),
        {"torch": "2"},
        50,
        True,
        1.5,
        300_000_000,
        disturbances=tuple(watched),
        turns=((10,) * 10,) * PROTOCOL.rounds,
        starts=(1,) * 10,
        cold_starts_s=(1.4, *(1.5,) * 8, 1.6),
    )


def row(variant, verification, latency, whole=False):
    return Row.of(variant, verification, 44_700_000, latency, whole=whole)


def looped(name, missed=0, ticks=3000, seed=0):
    random = np.random.default_rng(seed)
    latencies = 0.15 + TYPICAL_MS[name] * (0.9 + random.gamma(2, 0.05, ticks)).clip(max=1.25)
    latencies[random.permutation(ticks)[:missed]] = 7.5
    starts = random.gamma(2, 0.03, ticks)
    idle = {gap: tuple((TYPICAL_MS[name] * random.uniform(1.2, 2.0, 5)).tolist()) for gap in ("0.1", "1", "10")}
    return ControlLoop(name, 50.0, 5.0, tuple(latencies.tolist()), tuple(starts.tolist()), idle)


def picture():
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (600, 400), "white")
    draw = ImageDraw.Draw(image)
    draw.line((0, 300, 600, 300), "black", 2)
    draw.rectangle((270, 285, 330, 315), "black")
    draw.line((300, 295, 318, 200), (202, 152, 101), 10)
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def verified(seed=0, pairs=160, **changes):
    random = np.random.default_rng(seed)
    eager = random.normal(480, 15, pairs).clip(max=500).round()
    losses = 8 * (random.random(pairs) < 0.1) if "divergence" in changes else np.zeros(pairs)
    own = (eager - losses).tolist()
    return Verification(
        **{
            "status": "verified",
            "rung": "reward",
            "reason": f"{pairs} pairs",
            "max_abs_diff": 0.12,
            "agreement": 0.98,
            "regret": 0.002,
            "pairs": pairs,
            "reward_delta": -0.8,
            "reward_interval": (-4.0, 1.0),
            "returns": tuple(zip(range(pairs), eager.tolist(), own, strict=True)),
            **changes,
        }
    )


def profiled():
    """Where the time of a call goes: more layers than are shown one by one."""
    convolutions = [
        Layer(f"node_Conv_{i}/WithoutBiases_{'x' * i}", "QLinearConv", 4e-5, 7_000_000, "int8") for i in range(9)
    ]
    others = [Layer(f"node_{i}", "Slice", 1e-6 * (i + 1), 0, "fp32") for i in range(20)]
    return Profile("onnx-int8", "ONNX Runtime's profiler", 50, 9e-4, (*others[:10], *convolutions, *others[10:]))


def soaked():
    """Ten minutes in which a variant became slower and was throttled in the end."""
    random = np.random.default_rng(9)
    intervals = [
        SoakInterval(
            end_s=2.0 * (i + 1),
            calls=2500,
            p50_ms=0.78 * (1 + 0.0003 * i) + random.normal(0, 0.005),
            max_ms=1.5 + random.gamma(2, 0.2),
            memory_bytes=95_000_000 + 20_000 * i,
            clock_mhz=2450.0 - i,
            temperature=60 + 0.1 * i,
            throttled_s=0.1 * (i > 280),
        )
        for i in range(300)
    ]
    return Soak("onnx-int8", 10, tuple(intervals))


def sample_report(**changes):
    measurements = {
        name: measured(name, seed=i, disturbed=4 if name == "onnx-fp32" else 0) for i, name in enumerate(TYPICAL_MS)
    }
    eager = measurements["eager-fp32"]
    figures = {name: summarize(one, eager, PROTOCOL) for name, one in measurements.items()}
    divergence = Divergence(1003, 117, (1.0,), (0.0,), 0.0123, picture())
    verdicts = {
        "eager-fp32": Verification("verified"),
        "eager-fp32@channels_last": verified(1, reward_delta=0.0, reward_interval=(-3.1, 3.1)),
        "torchscript-fp32": verified(2, reward_delta=0.0, reward_interval=(-3.1, 3.1)),
        "onnx-fp32": verified(3, 20, status="provisional", reward_delta=0.0, reward_interval=(-12.0, 12.5)),
        "onnx-int8": verified(4, divergence=divergence),
    }
    rows = [row(name, verdicts[name], figures[name]) for name in TYPICAL_MS]
    rows.append(row("tensorrt-fp16", Verification("built", reason="<script>alert(1)</script> & no GPU"), None))
    sweep = [
        BatchPoint(name, batch, typical * batch**0.8, 1000 * batch**0.2 / typical)
        for name, typical in TYPICAL_MS.items()
        for batch in (1, 2, 4, 8, 16)
    ]
    provenance = Provenance("runs/<b>x</b>", "a" * 64, "resnet18", "layer2", "flatten", 683_072, 250_000_000, "1")
    whole = data.Report(
        machine=Machine("Some <CPU>", 2, "avx2", 2**34, "Linux 6", "3.11"),
        measured="2026-01-02T03:04:05+00:00",
        command="xfer bench x.bundle --quick --rate-hz 50 --deadline-ms 5 --allow-provisional",
        task="cartpole",
        control_hz=50.0,
        reward=RewardScale(22, 500),
        provenances=(provenance,),
        protocol=PROTOCOL,
        notes=("A note.",),
        rows=tuple(rows),
        measurements=tuple(measurements.values()),
        loops=tuple(looped(name, 3 if name == "onnx-int8" else 0, seed=i) for i, name in enumerate(TYPICAL_MS)),
        sweep=tuple(sweep),
        bundle="x.bundle",
        limits=Limits(5.0, allow_provisional=True),
        peaks=(Peak("fp32", 54.3e9, "ONNX Runtime 1.32.0", 2), Peak("int8", 211.5e9, "ONNX Runtime 1.32.0", 2)),
        profile=profiled(),
        soak=soaked(),
    )
    return replace(whole, **changes)
