"""ONNX, run by ONNX Runtime. Neither loading nor running it needs torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from export.onnxruntime_library import onnxruntime
from export.target import Exported, ExportRequest, Place, installed_versions
from xfer.errors import BundleError, UnavailableError
from xfer.runner import Arrays, Session, Step
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PRECISIONS = ("fp32", "int8")
PROVIDERS = {"": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Execution provider of each place."""
PLACES = ("cuda",)
FILE = "policy.onnx"


def available() -> str | None:
    """Torch's ONNX exporter, and ONNX Runtime for calibration."""
    from export import onnx_graph

    return onnx_graph.available() or runnable("")


def runnable(place: str) -> str | None:
    """ONNX Runtime with the execution provider of ``place``."""
    if not importlib.util.find_spec("onnxruntime"):
        return "onnxruntime is not installed: pip install 'xfer-policy[onnx]'"
    if place and PROVIDERS[place] not in onnxruntime().get_available_providers():
        return f"onnxruntime has no {PROVIDERS[place]}: pip install 'xfer-policy[onnx-gpu]'"
    return None


def libraries() -> dict[str, str]:
    """Versions of the exporter's libraries, where they are installed, and of ONNX Runtime."""
    return installed_versions("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write ``policy.onnx``; int8 is Q/DQ with unsigned activations and signed weights, per channel."""
    from export.onnx_graph import export_onnx
    from export.quantize import quantize_int8

    module = request.policy.deploy("fp32")
    if precision == "fp32":
        export_onnx(module, folder / FILE)
        return Exported()
    float_graph = folder / "fp32.onnx"
    export_onnx(module, float_graph)
    quantize_int8(float_graph, folder / FILE, request.spec, request.calibration, symmetric=False)
    float_graph.unlink()
    return Exported()


class OnnxSession:
    """ONNX Runtime behind the session protocol."""

    def __init__(self, session: InferenceSession, spec: PolicySpec) -> None:
        self._session = session
        self._outputs = list(spec.output_names)
        self._state_names = [state.name for state in spec.states]

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the graph once; ONNX Runtime gives new arrays each time."""
        action, scores, *next_states = self._session.run(self._outputs, {**observations, **states})
        return Step(action, scores, dict(zip(self._state_names, next_states, strict=True)))


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Open the graph with exactly one execution provider, and check that it is the one that runs."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"onnx: {reason}")
    library = onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = place.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if place.spin else "0")
    options.log_severity_level = 3
    provider = PROVIDERS[place.name]
    try:
        # Given as bytes, the graph cannot make the library read other files.
        graph = (folder / FILE).read_bytes()
        session = library.InferenceSession(graph, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise BundleError(f"{folder / FILE}: ONNX Runtime cannot load it: {error}") from error
    session.disable_fallback()
    if session.get_providers()[0] != provider:
        raise UnavailableError(f"onnx: {provider} was asked for, but {session.get_providers()[0]} runs.")
    yield OnnxSession(session, spec)
