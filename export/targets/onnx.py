"""ONNX, run by ONNX Runtime with the execution provider that is asked for. Loading and running it need no torch.

Three wheels own the module ``onnxruntime``, so only one of them can be installed: onnxruntime (CPU), onnxruntime-gpu
(CUDA and TensorRT), onnxruntime-openvino (https://onnxruntime.ai/docs/execution-providers/).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from export.libraries import cuda, installed_versions, user_cache
from export.libraries.causes import device_error, failure
from export.libraries.layers import Layer, of_onnxruntime
from export.libraries.onnxruntime import onnxruntime
from export.targets import Exported, ExportRequest, Place
from xfer.errors import BundleError, UnavailableError
from xfer.runner import Arrays, Session, Step
from xfer.spec import ActionSpec, PolicySpec, TensorSpec

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
PROFILER = "ONNX Runtime's profiler"
PLACES = tuple(filter(None, PROVIDERS))
WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
FILE = "policy.onnx"
ONE_NODE = (
    b'\x08\x08:C\n\x10\n\x01x\n\x01x\x12\x01y"\x03Add:\x00\x12\x03oneZ\x14\n\x01x\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01N'
    b"\n\x02\x08\x01b\x14\n\x01y\x12\x0f\n\r\x08\x01\x12\t\n\x03\x12\x01N\n\x02\x08\x01B\x04\n\x00\x10\x12"
)
"""A graph without torch or onnx: y = x + x, float32 [N, 1], of opset 18 and IR version 8."""
ONE_NODE_SPEC = PolicySpec("", 1.0, (TensorSpec("x", "float32", (1,)),), (), ActionSpec("continuous", ("y",)), "mean")


def available() -> str | None:
    """Torch's ONNX exporter, and ONNX Runtime for calibration."""
    from export import onnx_graph

    return onnx_graph.available() or runnable("")


def runnable(place: str) -> str | None:
    """ONNX Runtime with the execution provider of ``place``; else which wheel has it, and which one has to go."""
    provider = PROVIDERS[place]
    if not importlib.util.find_spec("onnxruntime"):
        return f"onnxruntime is not installed: pip install 'xfer-policy[{provider.extra}]'"
    lacking = []
    if provider.name not in onnxruntime().get_available_providers():  # that is, those that were compiled in
        present = " ".join(installed_versions(*WHEELS)) or "onnxruntime"
        why = f"this wheel of onnxruntime has no {provider.name}"
        lacking.append(f"{why}: pip uninstall {present} && pip install 'xfer-policy[{provider.extra}]'")
    if place in ("cuda", "tensorrt"):
        try:
            cuda.compute_capability()
        except UnavailableError as error:
            lacking.append(str(error))
    return "; ".join(lacking) or None


def try_out(place: str) -> str | None:
    """None if a graph of one node ran there just now, else why not."""
    try:
        session = _open(ONE_NODE, ONE_NODE_SPEC, Place(place))
        (found,) = session.run(["y"], {"x": np.ones((1, 1), np.float32)})
    except Exception as error:  # whatever ONNX Runtime raises
        return failure(error).reason
    return None if found.tolist() == [[2.0]] else f"{PROVIDERS[place].name} adds 1 and 1 wrongly"


def libraries() -> dict[str, str]:
    """Versions of the exporter's libraries, where they are installed, and of ONNX Runtime."""
    return installed_versions("torch", "torchvision", "onnx", "onnxscript", *WHEELS)


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write ``policy.onnx``; int8 is Q/DQ with unsigned activations and signed weights, per channel.

    fp16 is for GPUs: the CPU's provider computes most of it in fp32, between casts.
    """
    from export.onnx_graph import write_onnx
    from export.quantize import quantize_int8

    options = request.options
    if precision != "int8":
        return Exported(write_onnx(request.policy, folder / FILE, options.opset, precision))
    float_graph = folder / "fp32.onnx"
    max_batch = write_onnx(request.policy, float_graph, options.opset)
    quantize_int8(
        float_graph,
        folder / FILE,
        request.spec,
        request.calibration,
        symmetric=False,
        float_layers=options.float_layers,
    )
    float_graph.unlink()
    return Exported(max_batch, notes=options.note)


def write_graph(graph: Path, folder: Path) -> None:
    """Write ``policy.onnx``: the graph as it is."""
    shutil.copyfile(graph, folder / FILE)


class OnnxSession:
    """ONNX Runtime behind the session protocol."""

    def __init__(self, session: InferenceSession, spec: PolicySpec, shapes: InferenceSession | None = None) -> None:
        self.session, self.shapes = session, shapes
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
    # Given as bytes, the graph cannot make the library read other files.
    graph, path = (folder / FILE).read_bytes(), folder / FILE
    if not place.profile:
        yield OnnxSession(_open(graph, spec, place, path), spec)
        return
    if place.name:
        raise UnavailableError(
            f"onnx: {PROFILER} does not tell what a layer takes with {PROVIDERS[place.name].name}: profile the variant"
            " without @, or another target."
        )
    with tempfile.TemporaryDirectory(prefix="xfer-profile-") as temporary:
        profiled = _open(graph, spec, place, path, record=f"{temporary}/run")
        # Of weights that are packed, a profile tells no shapes.
        yield OnnxSession(profiled, spec, _open(graph, spec, place, path, record=f"{temporary}/shapes", packed=False))


def layers(session: Session, act: Callable[[], object], calls: int) -> list[Layer]:
    """See ``Profiled``."""
    assert isinstance(session, OnnxSession)
    assert session.shapes is not None
    for _ in range(calls):
        act()
    profile = Path(session.session.end_profiling())
    session.session = session.shapes
    act()
    return of_onnxruntime(profile, Path(session.shapes.end_profiling()), calls)


def open_graph(graph: bytes, path: Path) -> InferenceSession:
    """Open any graph on the CPU, with one thread.

    Raises:
        UnavailableError: If this ONNX Runtime is too old.
        BundleError: If it is no valid graph; ``path`` is what it is called.
    """
    return _open(graph, ONE_NODE_SPEC, Place(), path)  # whose spec is only for other providers


def _open(
    graph: bytes, spec: PolicySpec, place: Place, path: Path = Path(FILE), *, record: str = "", packed: bool = True
) -> InferenceSession:
    """Open a graph with the execution provider of the place, which has to run all of it.

    Args:
        graph: The file.
        spec: Its contract.
        place: What runs it, and how.
        path: What errors call it.
        record: How the path of its profile begins, if one is recorded.
        packed: Whether weights are put into the order that is fastest to read.

    Raises:
        UnavailableError: If the provider does not, there is no such device, or this ONNX Runtime is too old.
        ExecutionError: If memory ran out, or something failed on the GPU.
        BundleError: If it is no valid graph.
    """
    library = onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = place.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if place.spin else "0")
    if place.name:
        # Else nodes that the provider does not know would run on the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 3
    options.enable_profiling = bool(record)
    if record:
        options.profile_file_prefix = record
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    provider = PROVIDERS[place.name].name
    if place.name == "tensorrt":
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # fp32 means fp32; the provider has no option for that

    def session(profile: bool) -> InferenceSession:
        chain = _chain(place, spec, graph, profile)
        return library.InferenceSession(graph, options, providers=chain, enable_fallback=0)

    try:
        try:
            opened = session(profile=True)
        except Exception as error:
            # It runs only a part of the graph, whose inputs are inner values: it finds out their shapes as they come.
            if "no associated shape profiles" not in str(error):
                raise
            opened = session(profile=False)
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        if why := too_old(str(error), library.__version__):
            raise UnavailableError(f"{path}: ONNX Runtime cannot load it: {why}") from error
        if (failed := device_error(error)) is not None:
            raise type(failed)(f"onnx: {provider}: {failed}") from error
        if place.name:
            raise UnavailableError(f"onnx: {provider} cannot run all of {path}: {error}") from error
        raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}") from error
    if opened.get_providers()[0] != provider:
        raise UnavailableError(f"onnx: {provider} was asked for, but {opened.get_providers()[0]} runs.")
    return opened


def too_old(message: str, version: str) -> str:
    """Return which ONNX Runtime a graph needs, if this version's ``message`` says that it is too old; else nothing.

    Source: https://onnxruntime.ai/docs/reference/compatibility.html
    """
    known = {
        "IR version": (r"Unsupported model IR version: (\d+)", {10: "1.18", 11: "1.22"}),
        "opset": (
            r"Opset (\d+) is under development",
            {19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.22"},
        ),
    }
    for what, (pattern, needed) in known.items():
        if found := re.search(pattern, message):
            newer = needed.get(int(found[1]), f"one that knows {what} {found[1]}")
            return f"this is {version}, and it needs {newer}; or export with a lower --opset"
    return ""


def tensorrt_options(place: Place, spec: PolicySpec, graph: bytes, profile: bool) -> dict[str, str]:
    """Return the TensorRT provider's options: what it computes in, for which batches, and where it keeps its engines.

    Args:
        place: Says precision and largest batch.
        spec: Says the shapes.
        graph: The file.
        profile: Whether to build one engine for all batches now, instead of one for what comes when it comes.

    Source: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    """
    options = {
        name: str(int(place.precision == p)) for name, p in (("trt_fp16_enable", "fp16"), ("trt_int8_enable", "int8"))
    }
    if profile:
        for name, batch in (("min", 1), ("opt", 1), ("max", place.max_batch)):
            shapes = (f"{tensor.name}:{'x'.join(map(str, (batch, *tensor.shape)))}" for tensor in spec.inputs)
            options[f"trt_profile_{name}_shapes"] = ",".join(shapes)
    # The provider takes an engine from there without asking what it was built from, and by which versions.
    built_from = [libraries(), hashlib.sha256(graph).hexdigest(), options]
    key = hashlib.sha256(json.dumps(built_from, sort_keys=True).encode()).hexdigest()[:16]
    try:
        folder = user_cache() / "onnxruntime-tensorrt" / key
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or one that cannot be written to: then it is built at each start
        return {**options, "trt_engine_cache_enable": "0"}
    kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    return {**options, **kept, "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(folder)}


def _chain(place: Place, spec: PolicySpec, graph: bytes, profile: bool) -> list[tuple[str, dict[str, str]]]:
    """Return execution providers with their options, in the order in which they are offered a node.

    fp32 means fp32, so what would use another precision for it is turned off.
    """
    cuda = (PROVIDERS["cuda"].name, {"use_tf32": "0"})
    if place.name == "tensorrt":
        # TensorRT's parser takes a uint8 input only if it is cast first; before that, it is cropped. CUDA does that.
        return [(PROVIDERS["tensorrt"].name, tensorrt_options(place, spec, graph, profile)), cuda]
    if place.name == "openvino":
        options = {"device_type": "CPU", "num_of_threads": str(place.threads), "precision": "FP32"}
        return [(PROVIDERS["openvino"].name, options)]
    return [cuda] if place.name == "cuda" else [(PROVIDERS[""].name, {})]
