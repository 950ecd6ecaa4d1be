"""Where the time of a call goes, layer by layer, as a library's own profiler tells it.

    onnxruntime   the JSON that a session with ``enable_profiling`` writes
                  (https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html)
    PyTorch       ``torch.profiler`` (https://docs.pytorch.org/docs/stable/profiler.html)
    ExecuTorch    ETDump, read by its Inspector (https://docs.pytorch.org/executorch/stable/etdump.html)

A target calls one of these from its ``layers``; OpenVINO's and TensorRT's fit into their targets.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

REST = "not told apart"
"""The kind of a layer that is the rest of a range."""

MODULE = "module "
"""How the name of a range begins that is one of PyTorch's modules."""

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
"""Operations whose multiplications PyTorch's profiler counts right; of a convolution only ``conv2d`` is counted."""


@dataclass(frozen=True)
class Layer:
    """One operation as a library runs it: several of the policy's may be one, or one several.

    Attributes:
        name: The library's name of it.
        kind: What it does, as ``Conv``.
        seconds: How long it took: the median of the profiled calls.
        macs: Its multiply-accumulates, or None where the library does not tell the shapes that they follow from.
        precision: What it computes in, as ``fp32`` or ``int8``; empty where that is not told.
    """

    name: str
    kind: str
    seconds: float
    macs: int | None = None
    precision: str = ""


def medians(times: Mapping[Any, Sequence[float]], calls: int, layers: Mapping[Any, Layer]) -> list[Layer]:
    """Return layers with the median of their times; a call in which one did not run counts as none."""
    padded = {key: [*found, *[0.0] * (calls - len(found))] for key, found in times.items()}
    return [replace(layers[key], seconds=statistics.median(found)) for key, found in padded.items()]


def convolution(output: Sequence[int], weight: Sequence[int]) -> int:
    """Return the multiply-accumulates of a convolution, whatever the order of its dimensions in memory.

    Example:
        >>> convolution([1, 64, 20, 75], [64, 3, 7, 7])
        14112000
    """
    return math.prod(output) * math.prod(weight[1:])


# ONNX Runtime

Shapes = Sequence[tuple[str, Sequence[int]]]
ORT_TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}


def of_onnxruntime(profile: Path, shapes: Path, calls: int) -> list[Layer]:
    """Read what ONNX Runtime wrote, in the order of execution.

    Args:
        profile: The profile of a session; its last ``calls`` runs count.
        shapes: The profile of one run of a session without packed weights: packed ones have no shape.
        calls: How many.
    """
    told = {event["args"]["node_index"]: _ort_macs(event["args"]) for event in _nodes(shapes)[-1]}
    times, layers = defaultdict[str, list[float]](list), dict[str, Layer]()
    for run in _nodes(profile)[-calls:]:
        for event in run:
            facts = event["args"]
            index, name = facts["node_index"], event["name"].removesuffix("_kernel_time")
            times[index].append(event["dur"] / 1e6)
            layers[index] = Layer(name, facts["op_name"], 0.0, told.get(index), _ort_precision(facts))
    return medians(times, calls, layers)


def _nodes(path: Path) -> list[list[dict[str, Any]]]:
    """Return the kernels of each run, in order."""
    events = sorted(json.loads(path.read_bytes()), key=lambda event: event["ts"])
    runs = [event for event in events if event["name"] == "model_run"]
    kernels = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    return [[k for k in kernels if run["ts"] <= k["ts"] <= run["ts"] + run["dur"]] for run in runs]


def _ort_shapes(listed: Sequence[dict[str, list[int]]]) -> Shapes:
    return [next(iter(one.items())) for one in listed]


def _ort_macs(facts: dict[str, Any]) -> int | None:
    inputs, outputs = (_ort_shapes(facts[f"{side}_type_shape"]) for side in ("input", "output"))
    kind = facts["op_name"]
    if "Conv" in kind and "Transpose" not in kind:
        # Of ``QLinearConv`` scale and zero point of the input come first.
        weight = next((shape for _, shape in inputs[1:] if len(shape) > 2), None)
        return convolution(outputs[0][1], weight) if weight else None
    if kind in ("Gemm", "QGemm") or "MatMul" in kind:
        return math.prod(inputs[0][1]) * outputs[0][1][-1]
    return 0


def _ort_precision(facts: dict[str, Any]) -> str:
    inputs = _ort_shapes(facts["input_type_shape"])
    return ORT_TYPES.get(inputs[0][0], "") if inputs else ""


# PyTorch


def of_torch(steps: Iterable[FunctionEvent], on_gpu: bool) -> list[Layer]:
    """Read what ``torch.profiler`` recorded.

    An operation is a layer, and so is a range that begins with ``MODULE``; what it calls is part of it. What runs
    without an operation of its own, as a compiler's machine code does, is the rest of the range around it.

    Args:
        steps: The range of each call.
        on_gpu: Whether to take the times of the GPU.
    """
    times, layers, calls = defaultdict[Any, list[float]](list), dict[Any, Layer](), 0
    for step in steps:
        calls += 1
        seen = defaultdict[str, int](int)
        for event in _parts(step):
            rest = not _is_layer(event) and bool(event.cpu_children)
            seen[event.name] += 1
            key = event.name, seen[event.name]
            on_cpu = event.self_cpu_time_total if rest else event.cpu_time_total
            on_device = event.self_device_time_total if rest else event.device_time_total
            times[key].append((on_device if on_gpu else on_cpu) / 1e6)
            name, kind = event.name.removeprefix(MODULE), REST if rest else _torch_kind(event)
            layers[key] = Layer(name, kind, 0.0, None if rest or kind == "kernel" else _torch_macs(event))
    return medians(times, calls, layers)


def _is_layer(event: FunctionEvent) -> bool:
    return "::" in event.name or event.name.startswith(MODULE)


def _parts(event: FunctionEvent) -> Iterable[FunctionEvent]:
    """Yield the layers inside a range, and after its own the ranges inside it, whose rest is told too."""
    for child in event.cpu_children:
        if not _is_layer(child):
            yield from _parts(child)
        yield child


def _torch_kind(event: FunctionEvent) -> str:
    """Return the operation, of a module the one that takes longest."""
    if event.name.startswith(MODULE) and event.cpu_children:
        return _torch_kind(max(event.cpu_children, key=lambda child: child.cpu_time_total))
    return event.name.rpartition("::")[2] if "::" in event.name else "kernel"


def _torch_macs(event: FunctionEvent) -> int | None:
    """Return what the profiler counted, and of a convolution what follows from its arguments, or None."""
    if event.name == "aten::convolution":
        arguments: Any = (*event.input_shapes[:2], *event.concrete_inputs[3:7])
        return _convolution_macs(*arguments)
    if event.name in PRODUCTS:
        return int(event.flops or 0) // 2
    found = [_torch_macs(child) for child in event.cpu_children]
    return None if None in found or ("conv" in event.name and not found) else sum(one or 0 for one in found)


def _convolution_macs(
    shape: list[int], weight: list[int], stride: list[int], padding: list[int], dilation: list[int], transposed: bool
) -> int | None:
    if transposed or not weight:
        return None
    sides = zip(shape[2:], weight[2:], stride, padding, dilation, strict=True)
    output = [(size + 2 * pad - step * (kernel - 1) - 1) // by + 1 for size, kernel, by, pad, step in sides]
    return convolution([shape[0], weight[0], *output], weight)


# ExecuTorch

XNNPACK_TYPES = {"F32": "fp32", "F16": "fp16", "QC8": "int8", "QS8": "int8", "QU8": "int8"}


def of_etdump(path: Path, calls: int) -> list[Layer]:
    """Read an ETDump: the operations of its delegates, and those that ExecuTorch's own kernels run."""
    from executorch.devtools import Inspector

    around = ("DELEGATE_CALL", "OPERATOR_CALL", "Method::", "Program::")
    layers = []
    for event in (event for block in Inspector(etdump_path=str(path)).event_blocks for event in block.events):
        if event.perf_data is None or event.name.startswith(around) or len(event.perf_data.raw) < calls:
            continue  # what happened once, as loading
        kind = event.name.removeprefix("native_call_").partition(" (")[0]
        macs = None if kind in ("Convolution", "Fully Connected") else 0
        precision = next((word for mark, word in XNNPACK_TYPES.items() if mark in event.name), "")
        layers.append(Layer(event.name, kind, statistics.median(event.perf_data.raw[-calls:]) / 1e3, macs, precision))
    return layers
