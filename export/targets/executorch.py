"""ExecuTorch with the XNNPACK delegate: PyTorch's runtime for phones and small boards (https://docs.pytorch.org/executorch/).

The program (.pte) holds no machine code: XNNPACK chooses its kernels where it is loaded. Here Python's runtime runs it,
which takes torch's tensors.
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.libraries import installed_versions, pytorch
from export.libraries.causes import not_loaded, reason
from export.libraries.layers import Layer, of_etdump
from export.libraries.terminal import quiet
from export.targets import Exported, ExportRequest, Place
from xfer.errors import UnavailableError, UsageError, XferError, check_choice
from xfer.runner import Runner, Session
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from executorch.runtime import Program
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import Node

PRECISIONS = ("fp32", "int8")
PLACES = ()
FILE = "policy.pte"
EXACT = ("policy.preprocess", "policy.head")
"""Parts that stay in float: see ``export.quantize``."""

PROFILER = "ExecuTorch's ETDump"

_threads_in_use: list[int] = []
"""One entry for each open session."""

_recording: list[Program] = []
"""The programs of open sessions that record how long each layer takes."""


def available() -> str | None:
    """PyTorch, and ExecuTorch, which brings TorchAO."""
    return pytorch.available() or runnable("")


def runnable(place: str) -> str | None:
    """ExecuTorch, whose Python runtime needs PyTorch."""
    if importlib.util.find_spec("executorch") and importlib.util.find_spec("torch"):
        return None
    return "ExecuTorch is not installed: pip install 'xfer-policy[executorch]'"


def libraries() -> dict[str, str]:
    """Versions of what exports, quantizes and runs."""
    return installed_versions("torch", "torchvision", "torchao", "executorch")


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write ``policy.pte`` for batches of 1 to ``max_batch``; a fixed batch of 1 would be no faster.

    Where that cannot be built, or what was built cannot be run (an LSTM's program has a batch of its own), it is for a
    batch of 1.
    """
    try:
        return _build(request, folder, precision)
    except Exception as error:  # whatever a converter raises
        if request.options.max_batch == 1 or isinstance(error, XferError):
            raise
        try:
            facts = _build(replace(request, options=replace(request.options, max_batch=1)), folder, precision)
        except Exception as smaller:  # likewise; the first failure is the one to mend
            error.add_note(f"With a batch of 1: {reason(smaller)}")
            raise error from error.__cause__
        return replace(facts, notes=f"{facts.notes}; for a batch of 1, since with more: {reason(error)}")


def _build(request: ExportRequest, folder: Path, precision: str) -> Exported:
    with quiet() as said:
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        with torch.no_grad():
            program = _capture(request.policy.deploy("fp32"), request)
            if precision == "int8":
                program = _capture(_quantized(program, request), request)
            program = _without_copies(program, request)
            # Else the cast of the raw frame is an operation that takes nine times as long as ``aten._to_copy``.
            config = EdgeCompileConfig(_skip_dim_order=True)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], compile_config=config)
            (folder / FILE).write_bytes(lowered.to_executorch().buffer)
        _try(folder / FILE, request, said)
    parts = sum("call_delegate" in str(node.target) for node in lowered.exported_program().graph.nodes)
    notes = [f"{parts} XNNPACK partitions", request.options.note if precision == "int8" else ""]
    return Exported(max_batch=request.options.max_batch, notes="; ".join(filter(None, notes)))


def _try(path: Path, request: ExportRequest, said: Callable[[], str]) -> None:
    """Run a program once with its smallest and its largest batch.

    Raises:
        RuntimeError: If it cannot be run, with the last thing that the library says.
    """
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    for batch in {1, request.options.max_batch}:
        try:
            method.execute([*pytorch.example_inputs(request.spec, batch)])
        except RuntimeError as error:
            raise RuntimeError(f"a batch of {batch} does not run: {[*said().splitlines(), str(error)][0]}") from None


def _capture(module: nn.Module, request: ExportRequest) -> ExportedProgram:
    """Return the module as a graph, with a free batch."""
    import torch

    largest = request.options.max_batch
    inputs = pytorch.example_inputs(request.spec, batch=min(2, largest))
    shapes = torch.export.ShapesCollection()
    for tensor in inputs if largest > 1 else ():
        shapes[tensor] = {0: torch.export.Dim("batch", min=1, max=largest)}
    return torch.export.export(module, inputs, dynamic_shapes=shapes)


def _without_copies(program: ExportedProgram, request: ExportRequest) -> ExportedProgram:
    """Return the program without copies into another order in memory, which ExecuTorch does not know.

    They change no value. XNNPACK orders memory as it needs it.
    """
    import torch

    copies = (torch.ops.aten.clone.default, torch.ops.aten.contiguous.default)
    if not any(node.target in copies and node.kwargs.get("memory_format") for node in program.graph.nodes):
        return program
    # Without in-place operations first, which would write to what was copied.
    module = program.run_decompositions({}).module()
    for node in module.graph.nodes:
        if node.target in copies:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return _capture(module, request)


def _quantized(program: ExportedProgram, request: ExportRequest) -> nn.Module:
    """Quantize the trunk's convolutions: weights per channel, activations by the extremes seen in calibration.

    The rest stays in float as in ``export.quantize``. On a trained cartpole policy that cost no time, and quantizing
    all that XNNPACK can made a quarter of the actions different. Histograms in the place of extremes gave the same mean
    error, a largest one 2.6 times as large, and half the regret; both regrets were far below what is allowed.
    """
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from xfer.models.torch_session import TorchSession

    convolution = torch.ops.aten.conv2d.default
    found = [_layer(node) for node in program.graph.nodes if node.target == convolution]
    layers = [layer for layer in found if not layer.startswith(EXACT)]
    kept = {check_choice("layer", layer, layers) for layer in request.options.float_layers}
    config = get_symmetric_quantization_config(is_per_channel=True)
    extremes = replace(config.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12))
    config = replace(config, input_activation=extremes, output_activation=extremes)
    quantizer = XNNPACKQuantizer().set_operator_type(convolution, config)
    quantizer.set_filter_function(lambda node: node.target != convolution or _layer(node) in {*layers} - kept)
    observed = prepare_pt2e(program.module(), quantizer)
    request.calibration.replay(Runner(TorchSession(observed, request.spec), request.spec))
    converted: nn.Module = convert_pt2e(observed)
    return converted


def _layer(node: Node) -> str:
    """Return the path of the module that a node came from, as "policy.trunk.layer1.0.conv2"."""
    scopes = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return scopes[-1] if scopes else ""


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Load the program, with XNNPACK's threads set for this process.

    Raises:
        UsageError: If a session with another number of threads is open: their pool is one, and changing it takes it
            from under those that run in it.
    """
    if (missing := runnable(place.name)) is not None:
        raise UnavailableError(f"executorch: {missing}")
    if _threads_in_use and _threads_in_use[0] != place.threads:
        raise UsageError(
            f"ExecuTorch has one pool of threads in a process, and a session with {_threads_in_use[0]} is open:"
            f" close it before one with {place.threads}."
        )
    with quiet() as said:
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        from xfer.models.torch_session import TorchSession, set_threads

        set_threads(place.threads)
        _unsafe_reset_threadpool(place.threads)
        try:
            program = Runtime.get().load_program(folder / FILE, enable_etdump=place.profile)
            method = program.load_method("forward")
            largest = method.metadata.input_tensor_meta(0).sizes()[0]
        except (RuntimeError, KeyError) as error:
            complaint = (said().splitlines() or [str(error)])[-1]
            raise not_loaded(error, f"{folder / FILE}: ExecuTorch cannot load it: {complaint}") from error

    @functools.wraps(method.execute, updated=())
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        if len(inputs[0]) > largest:
            raise UsageError(f"A batch of {len(inputs[0])} does not fit: this program takes {largest} at most.")
        return tuple(method.execute([tensor.contiguous() for tensor in inputs]))  # its outputs are copies

    _threads_in_use.append(place.threads)
    try:
        if place.profile:
            _recording.append(program)
        yield TorchSession(run, spec)
    finally:
        _threads_in_use.pop()
        _recording.clear()


def layers(session: Session, act: Callable[[], object], calls: int) -> list[Layer]:
    """See ``Profiled``. What XNNPACK runs has no shapes there, so its multiplications are not known.

    Raises:
        UnavailableError: If this ExecuTorch was built without its event tracer, or its Inspector lacks a library.
    """
    for _ in range(calls):
        act()
    (program,) = _recording
    with tempfile.TemporaryDirectory(prefix="xfer-profile-") as folder, quiet():
        path = Path(folder, "etdump")
        try:
            program.write_etdump_result_to_file(str(path), str(Path(folder, "debug")))
            return of_etdump(path, calls)
        except (ImportError, RuntimeError) as error:
            raise UnavailableError(f"executorch: this build has no ETDump: {reason(error)}") from error
