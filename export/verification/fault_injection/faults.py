"""Mistakes that happen between training and the robot. `xfer verify --inject-faults` makes them in copies of a bundle.

Most are a graph of ``graphs.py``, exported as usual, with correct hashes. Some are a way of
quantizing, some a runner of ``runners.py``. The rest damage files after their hashes were taken. A new fault is a class
there or a function here, and its line in ``FAULTS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import targets
from export.bundle.manifest import GOLDEN, MANIFEST, Build, FileFact
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter, content_key
from export.quantize import quantize_int8
from export.targets import ExportOptions, ExportRequest
from export.targets.onnx import FILE as ONNX_FILE
from export.verification.fault_injection import graphs, runners
from export.verification.parity.play import MakeRunner
from xfer.files import sha256, write_atomically
from xfer.models.checkpoint import WEIGHTS, load_policy, weights_bytes
from xfer.models.policy import Deployed, Policy
from xfer.models.torch_session import runner
from xfer.runner import Runner
from xfer.trajectories import Trajectories

REFERENCE = ""
"""The bundle's reference is what the fault damages."""
HISTORY = ("history",)
"""What a fault in the history needs."""
CHUNKS, QUEUE, FRAMES = "action chunks", "planned actions that are kept", "frames"
"""What faults in the runner need."""
FLOAT = ("onnx-fp32",)
"""What is quantized."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: What went wrong, in a few words.
        what: How that happens, as a sentence.
        damage: Makes it in a copy of a bundle that holds the reference and what the fault needs.
        variant: The variant that is damaged; empty for the reference.
        needs: What the bundle must have besides the reference: variants that it starts from, or a state, action chunks
            or frames.
        runner: What acts golden, where the fault is in the runner and no file is damaged.
    """

    name: str
    what: str
    damage: Callable[[Path], object]
    variant: str = "torchscript-fp32"
    needs: tuple[str, ...] = ()
    runner: MakeRunner = Runner


def in_runner(name: str, what: str, kind: type[Runner], needs: str) -> Fault:
    """Return a fault of the runner; the bundle stays whole."""
    return Fault(name, what, lambda path: None, REFERENCE, (needs,), kind)


def put(path: Path, variant: str, write: Callable[[Path], Any]) -> None:
    """Enter what ``write`` leaves in a folder as a build of the bundle at ``path``, with its hashes."""
    writer = BundleWriter(path)
    with writer.temporary_folder() as folder:
        write(folder)
        writer.add(Build(variant, "built", key=content_key({"mistake": variant})), folder)


def policy_of(path: Path) -> Policy:
    """Return the policy that the bundle was made from."""
    bundle = Bundle(path)
    return load_policy(bundle.check(bundle.build(bundle.reference)))


def in_graph(kind: type[Deployed], variant: str = "torchscript-fp32") -> Callable[[Path], None]:
    """Return a function that exports ``kind`` in place of the deployed policy, as the variant of that name."""
    target, _, made = variant.partition("-")

    class Faulty(Policy):
        def deploy(self, precision: str = "fp32") -> Deployed:
            return kind(self, torch.float32).eval()

    def damage(path: Path) -> None:
        policy = policy_of(path)
        faulty = Faulty(policy.config, policy.spec)
        faulty.load_state_dict(policy.state_dict())
        request = ExportRequest(faulty, policy.spec, Bundle(path).golden(), ExportOptions())
        put(path, variant, lambda folder: targets.load(target).export(request, folder, made))

    return damage


# int8: its scores are not judged, so its actions must be.


def calibrated_on(draw: Callable[[tuple[int, ...]], np.ndarray]) -> Callable[[Path], None]:
    """Return a function that calibrates int8 on eight made-up frames; ``draw`` makes them, given their shape."""

    def damage(path: Path) -> None:
        bundle = Bundle(path)
        made_up = {o.name: draw((8, *o.shape)).astype(o.dtype) for o in bundle.spec.observations}
        frames = Trajectories(made_up, np.ones(8, bool))
        source = bundle.check(bundle.build("onnx-fp32")) / ONNX_FILE
        put(
            path,
            "onnx-int8",
            lambda folder: quantize_int8(source, folder / ONNX_FILE, bundle.spec, frames, symmetric=False),
        )

    return damage


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Return random pixels."""
    return np.random.default_rng(0).integers(0, 256, shape)


def scales_of_half_the_range(path: Path) -> None:
    """Halve the scale of every activation, so that large values are cut off."""
    import onnx
    from onnx import numpy_helper

    bundle = Bundle(path)
    model = onnx.load(str(bundle.check(bundle.build("onnx-int8")) / ONNX_FILE))
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            halved = (numpy_helper.to_array(tensor) / 2).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))
    put(path, "onnx-int8", lambda folder: onnx.save(model, str(folder / ONNX_FILE)))


# Files.


def weights_file(path: Path) -> Path:
    """Return the file that the reference's weights are in."""
    bundle = Bundle(path)
    return bundle.check(bundle.build(bundle.reference)) / WEIGHTS


def truncated(path: Path) -> None:
    """Cut off the last thousand bytes."""
    file = weights_file(path)
    write_atomically(file, file.read_bytes()[:-1000])


def exchanged(path: Path) -> None:
    """Put a file of the same size in another's place."""
    write_atomically(weights_file(path), weights_bytes(graphs.neighbor(policy_of(path))))


def edited(path: Path) -> None:
    """Halve the control rate by hand."""
    text = (path / MANIFEST).read_text(encoding="utf-8")
    halved = re.sub(r'("control_hz": )([0-9.]+)', lambda found: f"{found[1]}{float(found[2]) / 2}", text)
    write_atomically(path / MANIFEST, halved.encode())


def golden_of_another(path: Path) -> None:
    """Record golden with other weights."""
    bundle, other = Bundle(path), graphs.neighbor(policy_of(path))
    bundle.golden().replay(runner(other)).save(path / GOLDEN)
    fact = FileFact((path / GOLDEN).stat().st_size, sha256(path / GOLDEN))
    write_atomically(path / MANIFEST, replace(bundle.manifest, golden=fact).encode())


FAULTS = (
    Fault("red and blue swapped", "The camera's BGR was taken for RGB.", in_graph(graphs.RedAndBlueSwapped)),
    Fault("picture upside down", "OpenGL's first row is the lowest one.", in_graph(graphs.UpsideDown)),
    Fault("axes transposed", "The frame's bytes were read as [3, H, W].", in_graph(graphs.AxesTransposed)),
    Fault("crop shifted", "The crop begins three pixels off.", in_graph(graphs.CropShifted)),
    Fault("another resize", "Bilinear as OpenCV does it, where areas were averaged.", in_graph(graphs.AnotherResize)),
    Fault(
        "normalization left out", "Mean and deviation are not subtracted and divided.", in_graph(graphs.NotNormalized)
    ),
    Fault("wrong value range", "The frame comes as 0..1 and is divided by 255 again.", in_graph(graphs.ValueRange)),
    Fault(
        "history never updated",
        "The policy gets the first history forever.",
        in_graph(graphs.HistoryStale),
        needs=HISTORY,
    ),
    Fault(
        "history one step late",
        "The newest frame enters the history a step late.",
        in_graph(graphs.HistoryLate),
        needs=HISTORY,
    ),
    Fault(
        "history newest first",
        "Frames are stacked in the other order.",
        in_graph(graphs.HistoryNewestFirst),
        needs=HISTORY,
    ),
    Fault(
        "history not reset",
        "An episode begins with the previous one's history.",
        in_graph(graphs.HistoryKept),
        needs=HISTORY,
    ),
    Fault(
        "batch rows mixed up",
        "A row of a batch continues with another's history.",
        in_graph(graphs.RowsMixed),
        needs=HISTORY,
    ),
    Fault(
        "frame buffer full",
        f"After {graphs.SLOTS} frames of an episode no more are stored.",
        in_graph(graphs.FrameBufferFull),
        needs=HISTORY,
    ),
    Fault("normalizer goes on learning", "Its mean and deviation move when deployed.", in_graph(graphs.StatisticsMove)),
    Fault("batch norm in training mode", "Statistics come from the frame at hand.", in_graph(graphs.BatchNormTraining)),
    Fault("half precision as fp32", "bfloat16 under a name that says fp32.", in_graph(graphs.HalfPrecision)),
    Fault("other checkpoint", "The weights of a few updates earlier.", in_graph(graphs.NeighboringCheckpoint)),
    Fault("non-finite weights", "One weight is not a number.", in_graph(graphs.NotFinite)),
    Fault("two actions swapped", "The actions' order was reversed.", in_graph(graphs.ActionsSwapped)),
    Fault("scores rescaled", "Same actions, but scores 5 % too large.", in_graph(graphs.ScoresRescaled)),
    Fault("exploration left on", "One action in twenty is random.", in_graph(graphs.ExplorationLeftOn)),
    Fault(
        "int8 with garbled actions",
        f"{graphs.GARBLED:.1%} of the actions arrive as their opposite.",
        in_graph(graphs.ActionGarbled, "onnx-int8"),
        "onnx-int8",
    ),
    Fault("int8 calibrated on noise", "Ranges from random pixels.", calibrated_on(noise), "onnx-int8", FLOAT),
    Fault("int8 calibrated in the dark", "Ranges from black frames.", calibrated_on(np.zeros), "onnx-int8", FLOAT),
    Fault(
        "int8 with wrong scales",
        "Activations are cut off at half of their range.",
        scales_of_half_the_range,
        "onnx-int8",
        ("onnx-int8",),
    ),
    in_runner("queue not emptied", "What was planned in one episode is acted in the next.", runners.StaleQueue, QUEUE),
    in_runner("queue off by one", "Each planned action is acted a tick too early.", runners.QueueOffByOne, CHUNKS),
    in_runner("frames not forgotten", "An episode begins with the previous one's frames.", runners.StaleFrames, FRAMES),
    Fault("golden of another policy", "Golden was recorded with other weights.", golden_of_another, REFERENCE),
    Fault("file truncated", "A copy over the network stopped early.", truncated, REFERENCE),
    Fault("file exchanged", "Other weights were copied over a build's.", exchanged, REFERENCE),
    Fault("manifest edited", "The control rate was changed by hand.", edited, REFERENCE),
)
