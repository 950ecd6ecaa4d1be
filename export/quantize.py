"""int8 as Q/DQ in the ONNX graph, calibrated on observations that the policy itself met."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.onnx_graph import add_spec, nodes_in_scope
from export.onnxruntime_library import onnxruntime
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def quantize_int8(
    source: Path, destination: Path, spec: PolicySpec, calibration: Trajectories, *, symmetric: bool
) -> None:
    """Quantise the trunk's convolutions.

    Preprocessing stays in float, where it is exact; so do the head, whose attention maps turn small errors into
    wrong positions, and the residual sums, whose rounding would enter every later layer. Together they are a few
    percent of the arithmetic.

    Args:
        source: An fp32 graph from ``export_onnx``.
        destination: The file to write.
        spec: The policy's contract.
        calibration: Observations to take value ranges from. The states come from running ``source`` on them.
        symmetric: True for TensorRT: signed activations, no zero points, biases left in float. False for ONNX
            Runtime on x86: unsigned activations and signed weights, which its VNNI kernels want.
    """
    import onnx

    onnxruntime()  # before its submodules
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the quantiser's own deprecations
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        exact = [*nodes_in_scope(source, "policy.preprocess"), *nodes_in_scope(source, "policy.head")]
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            quantize_static(
                str(prepared),
                str(destination),
                CalibrationInputs(prepared, spec, calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=exact,
                per_channel=True,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "ActivationSymmetric": symmetric,
                    "WeightSymmetric": True,
                    "QuantizeBias": not symmetric,
                },
            )
        finally:
            logging.root.setLevel(level)
    model = onnx.load(str(destination))
    add_spec(model, spec)
    onnx.save(model, str(destination))


class CalibrationInputs:
    """Feeds the quantiser with the graph's inputs, step by step (``CalibrationDataReader``'s protocol)."""

    def __init__(self, graph: Path, spec: PolicySpec, calibration: Trajectories) -> None:
        session = onnxruntime().InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self._inputs = self._steps(session, spec, calibration)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next step's inputs, or None at the end."""
        return next(self._inputs, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Not needed: all steps fit into one pass."""

    @staticmethod
    def _steps(
        session: InferenceSession, spec: PolicySpec, calibration: Trajectories
    ) -> Iterator[dict[str, np.ndarray]]:
        outputs: list[str] = [*spec.output_names[2:]]
        states: dict[str, Any] = {}
        for begins, observations in calibration.steps():
            if begins:
                states = {state.name: state.zeros(1) for state in spec.states}
            inputs = {**{name: array[None] for name, array in observations.items()}, **states}
            yield inputs
            if outputs:
                states = dict(zip(states, session.run(outputs, inputs), strict=True))
