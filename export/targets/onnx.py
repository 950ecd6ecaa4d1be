"""ONNX, run by ONNX Runtime with the execution provider that is asked for. Loading and running it need no torch.

Three wheels own the module ``onnxruntime``, so only one of them can be installed: onnxruntime (CPU), onnxruntime-gpu
(CUDA and TensorRT), onnxruntime-openvino (https://onnxruntime.ai/docs/execution-providers/).
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from export.libraries import installed_versions
from export.libraries.onnxruntime import onnxruntime
from export.targets import Exported, ExportRequest, Place
from xfer.errors import BundleError, UnavailableError
from xfer.runner import Arrays, Session, Step
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Provider(NamedTuple):
    """An execution provider, by ONNX Runtime's name for it, and the extra of xfer-policy that brings it."""

    name: str
    extra: str


PRECISIONS = ("fp32", "fp16", "int8")
PROVIDERS = {
    "": Provider("CPUExecutionProvider", "onnx"),
    "cuda": Provider("CUDAExecutionProvider", "onnx-gpu"),
    "tensorrt": Provider("TensorrtExecutionProvider", "onnx-gpu"),
    "openvino": Provider("OpenVINOExecutionProvider", "onnx-openvino"),
}
"""The execution provider behind each @; empty for the default."""
PLACES = tuple(filter(None, PROVIDERS))
WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
FILE = "policy.onnx"


def available() -> str | None:
    """Torch's ONNX exporter, and ONNX Runtime for calibration."""
    from export import onnx_graph

    return onnx_graph.available() or runnable("")


def runnable(place: str) -> str | None:
    """ONNX Runtime with the execution provider of ``place``; else which wheel has it, and which one has to go."""
    provider = PROVIDERS[place]
    if not importlib.util.find_spec("onnxruntime"):
        return f"onnxruntime is not installed: pip install 'xfer-policy[{provider.extra}]'"
    if provider.name not in onnxruntime().get_available_providers():
        present = " ".join(installed_versions(*WHEELS)) or "onnxruntime"
        why = f"this wheel of onnxruntime has no {provider.name}"
        return f"{why}: pip uninstall {present} && pip install 'xfer-policy[{provider.extra}]'"
    return None


def libraries() -> dict[str, str]:
    """Versions of the exporter's libraries, where they are installed, and of ONNX Runtime."""
    return installed_versions("torch", "torchvision", "onnx", "onnxscript", *WHEELS)


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write ``policy.onnx``; int8 is Q/DQ with unsigned activations and signed weights, per channel.

    fp16 is for GPUs: the CPU's provider computes most of it in fp32, between casts.
    """
    from export.onnx_graph import export_onnx
    from export.quantize import quantize_int8

    if precision != "int8":
        export_onnx(request.policy.deploy(precision), folder / FILE, request.options.opset)
        return Exported()
    float_graph = folder / "fp32.onnx"
    export_onnx(request.policy.deploy(), float_graph, request.options.opset)
    options = request.options
    quantize_int8(
        float_graph,
        folder / FILE,
        request.spec,
        request.calibration,
        symmetric=False,
        float_layers=options.float_layers,
    )
    float_graph.unlink()
    return Exported(notes=options.note)


def write_graph(graph: Path, folder: Path) -> None:
    """Write ``policy.onnx``: the graph as it is."""
    shutil.copyfile(graph, folder / FILE)


class OnnxSession:
    """ONNX Runtime behind the session protocol."""

    def __init__(self, session: InferenceSession, spec: PolicySpec) -> None:
        self.session = session
        self._outputs = list(spec.output_names)
        self._state_names = [state.name for state in spec.states]

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the graph once; ONNX Runtime gives new arrays each time."""
        action, scores, *next_states = self.session.run(self._outputs, {**observations, **states})
        return Step(action, scores, dict(zip(self._state_names, next_states, strict=True)))


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Open the graph with the execution provider of the place, and check that it is the one that runs all of it."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"onnx: {reason}")
    library = onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = place.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if place.spin else "0")
    if place.name:
        # Else nodes that the provider does not know would run on the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 3
    provider = PROVIDERS[place.name].name
    # Given as bytes, the graph cannot make the library read other files.
    graph = (folder / FILE).read_bytes()
    try:
        session = library.InferenceSession(graph, options, providers=_chain(place), enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        if place.name:
            raise UnavailableError(f"onnx: {provider} cannot run all of {folder / FILE}: {error}") from error
        why = too_old(str(error), library.__version__) or str(error)
        raise BundleError(f"{folder / FILE}: ONNX Runtime cannot load it: {why}") from error
    if session.get_providers()[0] != provider:
        raise UnavailableError(f"onnx: {provider} was asked for, but {session.get_providers()[0]} runs.")
    yield OnnxSession(session, spec)


def too_old(message: str, version: str) -> str:
    """Return which ONNX Runtime a graph needs, if this version's ``message`` says that it is too old; else nothing.

    Source: https://onnxruntime.ai/docs/reference/compatibility.html
    """
    known = {
        r"Unsupported model IR version: (\d+)": {10: "1.18", 11: "1.22"},
        r"Opset (\d+) is under development": {19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.22"},
    }
    for pattern, needed in known.items():
        if found := re.search(pattern, message):
            newer = needed.get(int(found[1]), "a newer one")
            return f"this is {version}, and it needs {newer}; or export with a lower --opset"
    return ""


def _chain(place: Place) -> list[tuple[str, dict[str, str]]]:
    """Return execution providers with their options, in the order in which they are offered a node.

    fp32 means fp32, so what would use another precision for it is turned off.
    """
    cuda = (PROVIDERS["cuda"].name, {"use_tf32": "0"})
    if place.name == "tensorrt":
        # TensorRT's parser takes a uint8 input only if it is cast first; before that, it is cropped. CUDA does that.
        return [(PROVIDERS["tensorrt"].name, {}), cuda]
    if place.name == "openvino":
        options = {"device_type": "CPU", "num_of_threads": str(place.threads), "precision": "FP32"}
        return [(PROVIDERS["openvino"].name, options)]
    return [cuda] if place.name == "cuda" else [(PROVIDERS[""].name, {})]
