"""int8 as Q/DQ in the ONNX graph, calibrated on observations recorded while the policy acted."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.libraries.onnxruntime import onnxruntime
from export.onnx_graph import names_apart, nodes_in_scope, rename, save_graph
from xfer.errors import UsageError, check_choice
from xfer.runner.frames import FrameHistory
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPERATIONS = ["Conv"]
"""What is quantized, in ONNX's words."""
REMOVABLE = ["Relu"]
"""What unsigned numbers do by themselves: a convolution whose range begins at zero needs no ReLU behind it, and has
all 256 steps for what the ReLU lets through."""


def quantize_int8(
    source: Path,
    destination: Path,
    spec: PolicySpec,
    calibration: Trajectories,
    *,
    symmetric: bool,
    float_layers: tuple[str, ...] = (),
) -> None:
    """Quantize the trunk's convolutions: ``Quantizer`` and its ``write`` in one."""
    Quantizer(source, spec, calibration, symmetric=symmetric).write(destination, float_layers)


class Quantizer:
    """A graph whose value ranges have been measured, to be written in int8 with all of its layers or without some.

    What can be quantized are the trunk's convolutions. Preprocessing stays in float, where it is exact; so do the
    head, whose attention maps turn small errors into wrong positions, and the residual sums, whose rounding would
    enter every later layer. Together they are a few percent of the arithmetic.

    Args:
        source: An fp32 graph from ``export_onnx``.
        spec: The policy's contract.
        calibration: Observations to take value ranges from. The states come from running ``source`` on them.
        symmetric: True for TensorRT: signed activations, no zero points, biases left in float. False for ONNX
            Runtime on x86: unsigned activations and signed weights, which its VNNI kernels want.

    Attributes:
        layers: Nodes by the layer that they are, in the graph's order.

    Raises:
        UsageError: If there is none.
    """

    def __init__(self, source: Path, spec: PolicySpec, calibration: Trajectories, *, symmetric: bool) -> None:
        onnxruntime()  # before its submodules
        import onnx
        from onnxruntime.quantization import create_calibrator
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self._spec, self._symmetric = spec, symmetric
        self._operations = OPERATIONS if symmetric else OPERATIONS + REMOVABLE
        self._exact = [*nodes_in_scope(source, "policy.preprocess"), *nodes_in_scope(source, "policy.head")]
        self.layers = _layers(source, self._exact)
        if not self.layers:
            raise UsageError(f"there is nothing to quantize: the graph has no {' or '.join(OPERATIONS)}")
        self._apart = names_apart(spec)
        with tempfile.TemporaryDirectory() as folder, _quiet():
            apart, prepared = Path(folder) / "apart.onnx", Path(folder) / "prepared.onnx"
            model = onnx.load(str(source))
            rename(model, self._apart)
            onnx.save(model, str(apart))
            quant_pre_process(str(apart), str(prepared), skip_symbolic_shape=True)
            self._graph = load_model_with_shape_infer(prepared)
            calibrator = create_calibrator(prepared, self._operations, str(Path(folder) / "augmented.onnx"))
            calibrator.collect_data(CalibrationInputs(prepared, spec, calibration, self._apart))
            self._ranges = calibrator.compute_data()

    def write(self, destination: Path, float_layers: tuple[str, ...] = ()) -> None:
        """Write the graph in int8, per channel.

        Args:
            destination: The file to write.
            float_layers: Layers that stay in float.

        Raises:
            UsageError: If the graph has no such layer, with the closest that it has.
        """
        from onnxruntime.quantization import QDQQuantizer, QuantType

        kept = [node for layer in float_layers for node in self.layers[check_choice("layer", layer, self.layers)]]
        with _quiet():
            quantizer = QDQQuantizer(
                copy.deepcopy(self._graph),
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if self._symmetric else QuantType.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=self._exact + kept,
                op_types_to_quantize=self._operations,
                extra_options={
                    "ActivationSymmetric": self._symmetric,
                    "WeightSymmetric": True,
                    "QuantizeBias": not self._symmetric,
                    # Else half of a signed range goes to what the ReLU drops. TensorRT fuses convolution, ReLU and
                    # rounding into one, and its manual advises not to round outputs of a convolution.
                    "OpTypesToExcludeOutputQuantization": OPERATIONS if self._symmetric else [],
                },
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        model = quantizer.model.model
        rename(model, {name: own for own, name in self._apart.items()})
        save_graph(model, self._spec, destination)


def _layers(source: Path, exact: list[str]) -> dict[str, list[str]]:
    """Return the nodes that can be quantized by the path of the module that has their weights."""
    import onnx

    found: dict[str, list[str]] = {}
    for node in onnx.load(str(source)).graph.node:
        if node.op_type in OPERATIONS and node.name not in exact:
            # The exporter folds batch norm into the convolution before it, and says that the node came from there.
            module, _, _ = node.input[1].rpartition(".")
            found.setdefault(module or node.name, []).append(node.name)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's deprecations and its advice off the terminal."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)


class CalibrationInputs:
    """Feeds the quantizer with the graph's inputs, step by step (``CalibrationDataReader``'s protocol).

    Args:
        graph: The graph.
        spec: The contract.
        calibration: The observations.
        names: What the contract's tensors are called in this graph.
    """

    def __init__(self, graph: Path, spec: PolicySpec, calibration: Trajectories, names: dict[str, str]) -> None:
        session = onnxruntime().InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self._inputs = self._steps(session, spec, calibration, names)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next step's inputs, or None at the end."""
        return next(self._inputs, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Not needed: all steps fit into one pass."""

    @staticmethod
    def _steps(
        session: InferenceSession, spec: PolicySpec, calibration: Trajectories, names: dict[str, str]
    ) -> Iterator[dict[str, np.ndarray]]:
        outputs: list[str] = [names[name] for name in spec.output_names[2:]]
        states: dict[str, Any] = {}
        frames = FrameHistory(spec.observations, 1)
        for t, (begins, observations) in enumerate(calibration.steps()):
            if begins:
                starts = calibration.starting(np.array([t]))
                frames.reset(np.ones(1, bool), starts)
                states = {names[state.name]: starts.get(state.name, state.zeros(1)) for state in spec.states}
            newest = {name: array[None] for name, array in observations.items()}
            inputs = {**{names[name]: array for name, array in frames.stacked(newest).items()}, **states}
            frames.push(newest)
            yield inputs
            if outputs:
                states = dict(zip(states, session.run(outputs, inputs), strict=True))
