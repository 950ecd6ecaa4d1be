"""TensorRT, in both of its libraries, which share one API.

``tensorrt`` (servers, Jetson) builds an engine on the GPU that will run it. ``tensorrt_rtx`` builds ahead of time on
any machine, also without a GPU, for named compute capabilities, and finishes on the device. Where a GPU and
``tensorrt`` are there, that one is used; else ``tensorrt_rtx``. Networks are strongly typed: precision comes with
the ONNX, which stays beside the engine so that a robot can build its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from export.target import Exported, ExportOptions, ExportRequest, Place, installed_versions
from xfer.errors import BundleError, UnavailableError
from xfer.runner import Arrays, Session, Step
from xfer.spec import PolicySpec, TensorSpec

PRECISIONS = ("fp32", "fp16", "int8")
PLACES = ()
ENGINE, ONNX = "policy.engine", "policy.onnx"
INSTALL = "pip install 'xfer-policy[tensorrt]' (servers, Jetson) or 'xfer-policy[tensorrt-rtx]'"
NO_FP32 = ("75",)
"""Compute capabilities without fp32 matrix kernels in TensorRT for RTX."""


def available() -> str | None:
    """Torch's ONNX exporter and one of the two libraries."""
    from export import onnx_graph

    if (missing := onnx_graph.available()) is not None:
        return missing
    if not importlib.util.find_spec("onnxruntime"):
        return "onnxruntime, which calibrates int8, is not installed: pip install 'xfer-policy[onnx]'"
    return None if _library_name() else f"TensorRT is not installed: {INSTALL}"


def runnable(place: str) -> str | None:
    """One of the two libraries, and an NVIDIA GPU with its driver."""
    if _library_name() is None:
        return f"TensorRT is not installed: {INSTALL}"
    if not _has_gpu():
        return "no NVIDIA GPU with a driver on this machine"
    if not importlib.util.find_spec("torch"):
        return "PyTorch, which holds the GPU's buffers, is not installed: pip install 'xfer-policy[train]'"
    return None


def libraries() -> dict[str, str]:
    """Version of the library that builds and runs engines here."""
    return installed_versions("tensorrt", "tensorrt-rtx-cu13", "torch", "onnx", "onnxscript")


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None


def _library_name() -> str | None:
    """Name of the library to use: ``tensorrt`` needs the GPU to build on."""
    if _has_gpu() and importlib.util.find_spec("tensorrt"):
        return "tensorrt"
    return "tensorrt_rtx" if importlib.util.find_spec("tensorrt_rtx") else None


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write ``policy.onnx`` in the wanted precision, and the engine that was built from it."""
    from export.onnx_graph import export_onnx
    from export.quantize import quantize_int8

    module = request.policy.deploy("fp16" if precision == "fp16" else "fp32")
    module.policy.preprocess.cast_first = True  # TensorRT takes a uint8 input only if it is cast first of all
    export_onnx(module, folder / ONNX)
    if precision == "int8":
        float_graph = (folder / ONNX).rename(folder / "fp32.onnx")
        quantize_int8(float_graph, folder / ONNX, request.spec, request.calibration, symmetric=True)
        float_graph.unlink()
    return build_engine(folder, request.spec, precision, request.options)


def build_engine(folder: Path, spec: PolicySpec, precision: str, options: ExportOptions) -> Exported:
    """Build ``policy.engine`` from the ``policy.onnx`` beside it. It needs no torch.

    Raises:
        UnavailableError: If TensorRT is not installed.
        BundleError: If it refuses the graph.
    """
    name = _library_name()
    if name is None:
        raise UnavailableError(f"TensorRT is not installed: {INSTALL}")
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
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        shapes = [(batch, *tensor.shape) for batch in (1, 1, options.max_batch)]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    capabilities: tuple[str, ...] = ()
    if name == "tensorrt_rtx":
        capabilities = options.compute_capabilities
        left_out = tuple(c for c in capabilities if precision == "fp32" and c in NO_FP32)
        capabilities = tuple(c for c in capabilities if c not in left_out)
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            known = getattr(trt.ComputeCapability, f"SM{capability}", None)
            if known is None:
                raise BundleError(f"{name} knows no compute capability '{capability}'.")
            config.set_compute_capability(known, index)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BundleError(f"{name} could not build the engine: {'; '.join(complaints[-3:])}")
    (folder / ENGINE).write_bytes(engine)
    gpus = f"compute capability {', '.join(capabilities)}" if capabilities else "the GPU it was built on"
    return Exported(options.max_batch, capabilities, f"{name} engine for {gpus}")


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
    """An engine behind the session protocol. PyTorch holds the buffers, pinned on the host."""

    def __init__(self, trt: Any, engine: Any, spec: PolicySpec) -> None:
        import torch

        self._torch, self._engine, self._spec = torch, engine, spec
        self._context = engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        self._outputs = (spec.action.tensor, spec.scores, *spec.states)

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Copy inputs to the GPU, run the engine, copy outputs back, and wait."""
        torch, spec = self._torch, self._spec
        arrays = {**observations, **states}
        batch = len(next(iter(arrays.values())))
        kept = []  # the inputs' memory must live until the stream is done
        with torch.cuda.stream(self._stream):
            for tensor in spec.inputs:
                host = torch.from_numpy(np.ascontiguousarray(arrays[tensor.name])).pin_memory()
                device = host.to("cuda", non_blocking=True)
                kept += [host, device]
                self._context.set_input_shape(tensor.name, tuple(device.shape))
                self._context.set_tensor_address(tensor.name, device.data_ptr())
            results = [self._output(tensor, name, batch) for tensor, name in self._named_outputs()]
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise BundleError("TensorRT could not run the engine.")
            action, scores, *next_states = [result.cpu().numpy() for result in results]
        names = [state.name for state in spec.states]
        return Step(action, scores, dict(zip(names, next_states, strict=True)))

    def _named_outputs(self) -> Iterator[tuple[TensorSpec, str]]:
        yield from zip(self._outputs, self._spec.output_names, strict=True)

    def _output(self, tensor: TensorSpec, name: str, batch: int) -> Any:
        dtype = getattr(self._torch, tensor.dtype)
        result = self._torch.empty((batch, *tensor.shape), dtype=dtype, device="cuda")
        self._context.set_tensor_address(name, result.data_ptr())
        return result


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Deserialise the engine; on TensorRT for RTX this finishes it for the GPU at hand."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"tensorrt: {reason}")
    name = _library_name()
    assert name is not None
    trt: Any = importlib.import_module(name)
    complaints: list[str] = []
    runtime = trt.Runtime(_logger(trt, complaints))
    engine = runtime.deserialize_cuda_engine((folder / ENGINE).read_bytes())
    if engine is None:
        raise BundleError(f"{folder / ENGINE}: {name} cannot load it: {'; '.join(complaints[-3:])}")
    yield TensorRTSession(trt, engine, spec)
