"""TensorRT, in both of its libraries, which share one API.

``tensorrt`` (servers, Jetson) builds an engine on the GPU that will run it. ``tensorrt_rtx`` builds ahead of time on
any machine, also without a GPU, for named compute capabilities, and finishes on the device. Where a GPU and
``tensorrt`` are there, that one is used; else ``tensorrt_rtx``. Networks are strongly typed: precision comes with
the ONNX, which stays beside the engine so that a robot can build its own (``export/rebuild.py``). Neither building from
it nor running needs torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.libraries import cuda, installed_versions
from export.targets import Exported, ExportOptions, ExportRequest, Place
from xfer.errors import BundleError, ExecutionError, UnavailableError, UsageError, check_choice
from xfer.files import write_atomically
from xfer.runner import Arrays, Session, Step
from xfer.spec import PolicySpec

PRECISIONS = ("fp32", "fp16", "int8")
PLACES = ()
LIBRARIES = ("tensorrt", "tensorrt_rtx")
ENGINE, ONNX = "policy.engine", "policy.onnx"
LIBRARY = "library.txt"
"""Which of the two built the engine; only that one can load it."""
INSTALL = "pip install 'xfer-policy[tensorrt-rtx]'"
NO_FP32 = ("75",)
"""Compute capabilities without fp32 matrix kernels in TensorRT for RTX."""


def available() -> str | None:
    """Torch's ONNX exporter and one of the two libraries."""
    from export import onnx_graph

    if (missing := onnx_graph.available()) is not None:
        return missing
    if not importlib.util.find_spec("onnxruntime"):
        return "onnxruntime, which calibrates int8, is not installed: pip install 'xfer-policy[onnx]'"
    return None if library_name() else no_library()


def runnable(place: str) -> str | None:
    """One of the two libraries, a driver, a GPU, and cuda-bindings; else all of them that are missing."""
    installed = any(importlib.util.find_spec(name) for name in LIBRARIES)
    return "; ".join(([] if installed else [no_library()]) + cuda.missing()) or None


def libraries() -> dict[str, str]:
    """Version of the library that builds and runs engines here."""
    return installed_versions("tensorrt", "tensorrt-rtx-cu13", "torch", "onnx", "onnxscript")


def gpu() -> str:
    """Compute capability of the GPU at hand, as "89", or empty where there is none."""
    try:
        return cuda.compute_capability()
    except UnavailableError:
        return ""


def library_name() -> str | None:
    """Name of the library to use: ``tensorrt`` needs the GPU to build on."""
    if importlib.util.find_spec("tensorrt") and gpu():
        return "tensorrt"
    return "tensorrt_rtx" if importlib.util.find_spec("tensorrt_rtx") else None


def no_library() -> str:
    """Say which library is missing."""
    if importlib.util.find_spec("tensorrt"):
        return f"TensorRT builds on a GPU, TensorRT for RTX also without one: {INSTALL}"
    return f"TensorRT is not installed (on a server or a Jetson, take the extra tensorrt instead): {INSTALL}"


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write ``policy.onnx`` in the wanted precision, and the engine that was built from it."""
    from export.onnx_graph import export_onnx
    from export.quantize import quantize_int8

    module = request.policy.deploy("fp16" if precision == "fp16" else "fp32")
    for part in module.modules():
        if hasattr(part, "cast_first"):
            # TensorRT takes a uint8 input only if it is cast first of all.
            part.cast_first = True  # type: ignore[assignment]
    export_onnx(module, folder / ONNX, request.options.opset)
    if precision == "int8":
        float_graph = (folder / ONNX).rename(folder / "fp32.onnx")
        quantize_int8(
            float_graph,
            folder / ONNX,
            request.spec,
            request.calibration,
            symmetric=True,
            float_layers=request.options.float_layers,
        )
        float_graph.unlink()
    return build_engine(folder, request.spec, precision, request.options)


def build_engine(
    folder: Path, spec: PolicySpec, precision: str, options: ExportOptions, timing_cache: Path | None = None
) -> Exported:
    """Build ``policy.engine`` from the ``policy.onnx`` beside it. It needs no torch.

    Args:
        folder: Where both are.
        spec: The policy's contract.
        precision: That of the graph.
        options: Its ``max_batch``, and the GPUs of a TensorRT for RTX engine.
        timing_cache: Kernel timings of earlier builds; read if it is there, and written. TensorRT
            itself refuses one of another GPU or version. TensorRT for RTX times nothing while it builds, and has none.

    Raises:
        UnavailableError: If TensorRT is not installed.
        BundleError: If it refuses the graph.
    """
    name = library_name()
    if name is None:
        raise UnavailableError(no_library())
    trt: Any = importlib.import_module(name)
    complaints: list[str] = []
    builder = trt.Builder(_logger(trt, complaints))
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if name == "tensorrt" else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse((folder / ONNX).read_bytes()):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BundleError(f"TensorRT cannot parse {ONNX}: {errors}")
    config = builder.create_builder_config()
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32; TF32 is on unless it is cleared
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        shapes = [(batch, *tensor.shape) for batch in (1, 1, options.max_batch)]
        profile.set_shape(tensor.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise BundleError(f"{name} refuses batches of 1 to {options.max_batch}: {'; '.join(complaints[-3:])}")
    if name == "tensorrt_rtx":
        capabilities = _set_capabilities(trt, config, precision, options.compute_capabilities)
    else:
        capabilities = (gpu(),)
        if timing_cache is not None:
            read_timing_cache(config, timing_cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BundleError(f"{name} could not build the engine: {'; '.join(complaints[-3:])}")
    (folder / ENGINE).write_bytes(engine)
    (folder / LIBRARY).write_text(name, encoding="utf-8")
    if timing_cache is not None and name == "tensorrt":
        write_timing_cache(config, timing_cache)
    return Exported(options.max_batch, capabilities, f"{name} engine for compute capability {', '.join(capabilities)}")


def read_timing_cache(config: Any, path: Path) -> None:
    """Give a build what an earlier one learned; a missing or damaged file is none."""
    known = path.read_bytes() if path.exists() else b""
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)


def write_timing_cache(config: Any, path: Path) -> None:
    """Write the kernel timings of a build."""
    if (cache := config.get_timing_cache()) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, bytes(cache.serialize()))


def _set_capabilities(trt: Any, config: Any, precision: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Tell TensorRT for RTX which GPUs to build for, and return those that can have this precision."""
    capabilities = tuple(c for c in wanted if not (precision == "fp32" and c in NO_FP32))
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        known = getattr(trt.ComputeCapability, f"SM{capability}", None)
        if known is None:
            choices = ", ".join(name.removeprefix("SM") for name in trt.ComputeCapability.__members__ if "SM" in name)
            raise BundleError(f"TensorRT for RTX knows no compute capability '{capability}'. It knows: {choices}.")
        config.set_compute_capability(known, index)
    return capabilities


def _logger(trt: Any, complaints: list[str]) -> Any:
    """Return a TensorRT logger that collects warnings and errors instead of printing them."""

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                complaints.append(message)

    return Collector()


class TensorRTSession:
    """An engine behind the session protocol. Its buffers are made again only when the batch changes."""

    def __init__(self, engine: Any, spec: PolicySpec) -> None:
        self._runtime, self._spec = cuda.runtime(), spec
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ExecutionError("TensorRT could not prepare the engine: the GPU's memory may be full.")
        self._stream = int(cuda.checked(self._runtime.cudaStreamCreate()))
        self._inputs: dict[str, cuda.Buffer] = {}
        self._outputs: dict[str, cuda.Buffer] = {}
        self._batch = 0

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Copy inputs to the GPU, run the engine, copy outputs back, and wait."""
        arrays = {**observations, **states}
        batch = len(next(iter(arrays.values())))
        if batch != self._batch:
            self._make_buffers(batch)
        for name, buffer in self._inputs.items():
            buffer.host[...] = arrays[name]
            buffer.upload(self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise ExecutionError("TensorRT could not run the engine: a kernel failed on the GPU.")
        for buffer in self._outputs.values():
            buffer.download(self._stream)
        cuda.checked(self._runtime.cudaStreamSynchronize(self._stream))
        action, scores, *next_states = [buffer.host.copy() for buffer in self._outputs.values()]
        names = [state.name for state in self._spec.states]
        return Step(action, scores, dict(zip(names, next_states, strict=True)))

    def close(self) -> None:
        """Free its memory on the GPU."""
        self._free_buffers()
        self._runtime.cudaStreamDestroy(self._stream)

    def _free_buffers(self) -> None:
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.free()
        self._inputs, self._outputs, self._batch = {}, {}, 0

    def _make_buffers(self, batch: int) -> None:
        self._free_buffers()
        spec = self._spec
        outputs = zip(spec.output_names, (spec.action.chunk, spec.chunk_scores, *spec.states), strict=True)
        self._inputs = {tensor.name: cuda.Buffer((batch, *tensor.shape), tensor.dtype) for tensor in spec.inputs}
        self._outputs = {name: cuda.Buffer((batch, *tensor.shape), tensor.dtype) for name, tensor in outputs}
        for name, buffer in self._inputs.items():
            if not self._context.set_input_shape(name, buffer.host.shape):
                raise UsageError(f"A batch of {batch} does not fit: the engine was built for others (see --max-batch).")
        for name, buffer in (self._inputs | self._outputs).items():
            if not self._context.set_tensor_address(name, buffer.device):
                raise BundleError(f"TensorRT refuses the memory of '{name}'.")
        self._batch = batch


def check_engine(trt: Any, engine: Any, spec: PolicySpec) -> None:
    """See whether an engine's tensors are those of the contract; TensorRT would read and write whatever lies there.

    Raises:
        BundleError: If a name, direction, type, shape or place in memory differs.
    """
    outputs = zip(spec.output_names, (spec.action.chunk, spec.chunk_scores, *spec.states), strict=True)
    wanted = {tensor.name: ("INPUT", tensor.dtype, tensor.shape) for tensor in spec.inputs}
    wanted |= {name: ("OUTPUT", tensor.dtype, tensor.shape) for name, tensor in outputs}
    found = {}
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        # By name, since NumPy has none for some of TensorRT's types.
        dtype = {"FLOAT": "float32", "UINT8": "uint8", "INT64": "int64"}.get(engine.get_tensor_dtype(name).name)
        found[name] = (engine.get_tensor_mode(name).name, dtype, tuple(engine.get_tensor_shape(name))[1:])
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise BundleError(f"{ENGINE}: it wants '{name}' in the host's memory. Export again.")
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            here, there = (" ".join(map(str, facts.get(name, ["no such tensor"]))) for facts in (found, wanted))
            raise BundleError(f"{ENGINE}: '{name}' is {here}, and the spec says {there}. Export again.")


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Deserialize the engine; on TensorRT for RTX this finishes it for the GPU at hand."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"tensorrt: {reason}")
    built_by = (folder / LIBRARY).read_text(encoding="utf-8") if (folder / LIBRARY).exists() else library_name()
    name = check_choice("library of TensorRT", built_by or "", LIBRARIES)
    if not importlib.util.find_spec(name):
        raise UnavailableError(
            f"tensorrt: {name} built this engine, and is not installed. Install it, or build one with"
            f" {library_name()}: xfer export --targets tensorrt --into BUNDLE"
        )
    trt: Any = importlib.import_module(name)
    complaints: list[str] = []
    runtime = trt.Runtime(_logger(trt, complaints))
    engine = runtime.deserialize_cuda_engine((folder / ENGINE).read_bytes())
    if engine is None:
        # It is the file that was exported, as its SHA-256 said: so the fault is that this machine is another one.
        raise UnavailableError(
            f"tensorrt: {name} {trt.__version__} cannot load this engine on this GPU ({'; '.join(complaints[-3:])}); it"
            " was built for another GPU or version: xfer export --targets tensorrt --into BUNDLE builds one here"
        )
    check_engine(trt, engine, spec)
    session = TensorRTSession(engine, spec)
    try:
        yield session
    finally:
        session.close()
