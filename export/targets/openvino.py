"""OpenVINO's own format (IR), run on the CPU. Neither loading nor running it needs torch."""

from __future__ import annotations

import importlib.util
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.libraries import installed_versions
from export.libraries.causes import not_loaded
from export.libraries.layers import Layer, convolution, medians
from export.targets import Exported, ExportRequest, Place
from xfer.errors import UnavailableError
from xfer.runner import Arrays, Session, Step, in_order
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from openvino import Core, InferRequest, Model, Node

PRECISIONS = ("fp32", "int8")
PLACES = ()
FILE = "policy.xml"
"""The graph; its weights lie beside it in ``policy.bin``."""
DEVICE = "CPU"
PROFILER = "OpenVINO's profiling_info"
TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "I8": "int8", "i8": "int8", "u8": "int8"}
"""How the names of OpenVINO's kernels end, and in what such a kernel computes."""


def available() -> str | None:
    """Torch's ONNX exporter, and OpenVINO."""
    from export import onnx_graph

    return onnx_graph.available() or runnable("")


def runnable(place: str) -> str | None:
    """OpenVINO, whose CPU device is part of the package."""
    if not importlib.util.find_spec("openvino"):
        return "openvino is not installed: pip install 'xfer-policy[openvino]'"
    return None


def libraries() -> dict[str, str]:
    """Versions of the exporter's libraries, where they are installed, and of OpenVINO."""
    return installed_versions("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino")


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write ``policy.xml`` and ``policy.bin``, read from the one ONNX graph.

    int8 is the same Q/DQ graph as ONNX Runtime's. NNCF's quantizer, on the same observations, left cartpole's scores
    2.4 times as far from eager's, and was 5 % faster.
    """
    from export.onnx_graph import write_onnx
    from export.quantize import quantize_int8

    graph, options = folder / "policy.onnx", request.options
    max_batch = write_onnx(request.policy, graph, options.opset)
    if precision == "int8":
        quantize_int8(
            graph, graph, request.spec, request.calibration, symmetric=False, float_layers=options.float_layers
        )
    write_graph(graph, folder)
    graph.unlink()
    return Exported(max_batch, notes=options.note if precision == "int8" else "")


def write_graph(graph: Path, folder: Path) -> None:
    """Write ``policy.xml`` and ``policy.bin`` from an ONNX graph."""
    import openvino

    # Not ``convert_model``: that one reports its use over the network.
    openvino.save_model(openvino.Core().read_model(graph), folder / FILE, compress_to_fp16=False)


class OpenVinoSession:
    """OpenVINO behind the session protocol: one compiled graph and one request a batch size, made on first use.

    A graph whose shapes are all known runs faster than one with a free batch dimension.
    """

    def __init__(self, core: Core, model: Model, spec: PolicySpec, config: dict[str, str | int]) -> None:
        from openvino import Tensor

        self._core, self._model, self._spec, self._config = core, model, spec, config
        self._state_names = [state.name for state in spec.states]
        self._positions = {port.any_name: index for index, port in enumerate(model.inputs)}
        self._tensor = Tensor
        self._requests: dict[int, InferRequest] = {}
        self._outputs: dict[int, list[np.ndarray]] = {}

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the graph once. Inputs are read where they lie; outputs are copied, since the request reuses its own."""
        # OpenVINO reads this memory without holding it: ``inputs`` must outlive ``infer``.
        inputs = {name: in_order(array) for name, array in {**observations, **states}.items()}
        batch = len(next(iter(inputs.values())))
        request = self.request(batch)
        # Not ``infer(inputs)``: finding out how to share each of them takes longer than setting them.
        for name, array in inputs.items():
            request.set_input_tensor(self._positions[name], self._tensor(array, shared_memory=True))
        request.infer()
        action, scores, *next_states = (output.copy() for output in self._outputs[batch])
        return Step(action, scores, dict(zip(self._state_names, next_states, strict=True)))

    def request(self, batch: int) -> InferRequest:
        """Return the request for a batch size.

        Raises:
            UnavailableError: If another device than the one that was asked for would run it.
        """
        if batch not in self._requests:
            compiled = self._core.compile_model(self.shaped(batch), DEVICE, self._config)
            if (devices := compiled.get_property("EXECUTION_DEVICES")) != [DEVICE]:
                raise UnavailableError(f"openvino: {DEVICE} was asked for, but {devices} runs.")
            self._requests[batch] = compiled.create_infer_request()
            self._outputs[batch] = [tensor.data for tensor in self._requests[batch].output_tensors]
        return self._requests[batch]

    def shaped(self, batch: int) -> Model:
        """Return the graph with all shapes known."""
        model = self._model.clone()
        model.reshape({tensor.name: [batch, *tensor.shape] for tensor in self._spec.inputs})
        return model


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Open the graph on the CPU, for the shortest time of one call."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"openvino: {reason}")
    import openvino

    config: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": place.threads,
        # fp32 means fp32: where the processor has bfloat16, that would be the default.
        "INFERENCE_PRECISION_HINT": "f32",
        # Else each process binds its threads to the first cores, and several share them while others idle.
        "ENABLE_CPU_PINNING": "NO",
        "PERF_COUNT": "YES" if place.profile else "NO",
    }
    core = openvino.Core()
    try:
        session = OpenVinoSession(core, core.read_model(folder / FILE), spec, config)
        session.request(1)
    except RuntimeError as error:
        raise not_loaded(error, f"{folder / FILE}: OpenVINO cannot load it: {error}") from error
    yield session


def layers(session: Session, act: Callable[[], object], calls: int) -> list[Layer]:
    """See ``Profiled``. Multiplications are those of the graph's own operations that a kernel was made of."""
    assert isinstance(session, OpenVinoSession)
    request = session.request(1)
    compiled = request.get_compiled_model()
    macs: dict[str, tuple[str, int]] = {}
    for op in session.shaped(1).get_ops():
        if (count := _macs(op)) > 0:
            macs |= dict.fromkeys(_names(op), (op.get_friendly_name(), count))
    made_of = {}
    for op in compiled.get_runtime_model().get_ops():
        made_of[op.get_friendly_name()] = str(op.get_rt_info()["originalLayersNames"].value).split(",")
    times, found = defaultdict[str, list[float]](list), dict[str, Layer]()
    for _ in range(calls):
        act()
        for one in request.profiling_info:
            if one.status.name != "EXECUTED":
                continue
            name = one.node_name
            times[name].append(one.real_time.total_seconds())
            parts = made_of.get(name, [name])
            kind = TYPES.get(one.exec_type.rpartition("_")[2], "")
            products = {macs[part] for part in parts if part in macs}
            found[name] = Layer(name, one.node_type, 0.0, sum(count for _, count in products), kind)
    return medians(times, calls, found)


def _names(op: Node) -> list[str]:
    """Return an operation's name, and those of what scales it and adds to it: a kernel may bear one of these alone."""
    names = [op.get_friendly_name()]
    while len(targets := op.output(0).get_target_inputs()) == 1:
        op = next(iter(targets)).get_node()
        if op.get_type_name() not in ("Add", "Multiply"):
            break
        names.append(op.get_friendly_name())
    return names


def _macs(op: Node) -> int:
    """Return the multiply-accumulates of a convolution or product of matrices, 0 of anything else."""
    kind = op.get_type_name()
    if kind in ("Convolution", "GroupConvolution"):
        weight = list(op.input(1).get_shape())
        return convolution(list(op.get_output_shape(0)), weight[1:] if kind.startswith("Group") else weight)
    if kind == "MatMul":
        first = list(op.input(0).get_shape())
        inner = first[-2] if op.get_attributes()["transpose_a"] else first[-1]
        return math.prod(map(int, op.get_output_shape(0))) * int(inner)
    return 0
