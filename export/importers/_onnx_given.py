"""Somebody's ONNX graph as it was given: its inputs and outputs, what it is computed with, and how it acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.libraries.causes import reason
from export.libraries.onnxruntime import onnxruntime
from export.targets.onnx import open_graph
from xfer.errors import UnavailableError, UsageError, WeightsError, XferError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
ELEMENT_TYPES = (*FLOATS, *INTEGERS, "uint8", "bool")
"""NumPy names of what may go into a graph or come out of it."""
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
OLDEST_OPSET = 9
"""The first in which every operation that is put around a graph broadcasts, casts and reshapes as today."""
FREE = -1
"""A dimension whose size the graph leaves open."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        dtype: NumPy name of its elements, or how ONNX calls what is none of ``ELEMENT_TYPES``.
        dims: Its shape, batch and all, with ``FREE`` and a name for what is open; None where the graph does not say.
        free: Names of the free dimensions, in their order.
    """

    name: str
    dtype: str
    dims: tuple[int, ...] | None
    free: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = iter(self.free)
        shape = "of any shape" if self.dims is None else f"[{', '.join(_dim(d, names) for d in self.dims)}]"
        return f"{self.name}: {self.dtype} {shape}"


def _dim(size: int, names: Any) -> str:
    return next(names) if size == FREE else str(size)


class Given:
    """A graph in a file.

    Args:
        path: The ``.onnx`` file; weights may be in other files beside it.

    Attributes:
        model: The graph without local functions, and with constants that are no inputs.
        inputs: What it takes.
        outputs: What it gives.

    Raises:
        WeightsError: If the file, or one of its weights, is missing or damaged.
        UsageError: If it is a graph that no policy can be made of.
        UnavailableError: If the library that reads it is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = _read(path)
        graph = self.model.graph
        self.inputs = tuple(map(_port, graph.input))
        self.outputs = tuple(map(_port, graph.output))
        if not self.outputs:
            raise WeightsError(f"{path} holds no ONNX graph. Export it again.")
        if not self.inputs:
            raise UsageError(f"{path} takes no inputs: it always gives the same.")

    def listed(self, ports: Sequence[Port]) -> str:
        """Return inputs or outputs in words."""
        return "; ".join(map(str, ports)) or "none"

    def only(self, outputs: Sequence[str]) -> Given:
        """Return the graph without what none of these outputs needs, and see whether it can be a policy's.

        Raises:
            UsageError: If it draws random numbers, or has an operator that ONNX Runtime has not.
        """
        part = object.__new__(Given)
        part.path, part.model = self.path, _pruned(self.model, outputs)
        graph = part.model.graph
        used = {name for node in _nodes(graph) for name in node.input} | {value.name for value in graph.output}
        needed = [value for value in graph.input if value.name in used]
        del graph.input[:]
        graph.input.extend(needed)
        part.inputs = tuple(map(_port, needed))
        part.outputs = tuple(map(_port, graph.output))
        for node in _nodes(graph):
            if node.op_type in RANDOM and node.domain in ("", "ai.onnx"):
                raise UsageError(
                    f"{self.path}: node '{node.name or node.output[0]}' ({node.op_type}) draws random numbers. Export"
                    " the mean or the mode of the distribution, as for evaluation (deterministic=True)."
                )
        return part

    def act(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Run it once with ONNX Runtime on the CPU, in fp32.

        Args:
            inputs: Arrays as it takes them, by its own names; perhaps more.
            outputs: Names of what to return.
        """
        if not hasattr(self, "_session"):
            self._session = self._open()
        found: list[np.ndarray] = self._session.run(list(outputs), {one.name: inputs[one.name] for one in self.inputs})
        return found

    def _open(self) -> Any:
        onnxruntime()
        try:
            return open_graph(self.model.SerializeToString(), self.path)
        except UnavailableError:
            raise
        except XferError as error:
            own = [
                n for n in _nodes(self.model.graph) if n.domain not in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
            ]
            if own:
                raise UsageError(
                    f"{self.path}: node '{own[0].name or own[0].output[0]}' is of an operator of its own,"
                    f" {own[0].domain}::{own[0].op_type}, which ONNX Runtime has not. Export with ONNX's operators."
                ) from error
            raise WeightsError(" ".join(str(error).split())) from error


def _read(path: Path) -> ModelProto:
    try:
        import onnx
        import onnx_ir as ir
        from onnx_ir.passes import common
    except ImportError as error:
        raise UnavailableError(f"{error.name} is not installed: pip install 'xfer-policy[onnx-export]'") from error
    if not path.is_file():
        raise WeightsError(f"{path} is not there.")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's, onnx.checker's, OSError
        raise WeightsError(
            f"{path} cannot be read as ONNX, with the files of weights that it names ({reason(error)})."
        ) from error
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if model.graph.node and opset < OLDEST_OPSET:
        raise UsageError(
            f"{path} is of opset {opset}; {OLDEST_OPSET} is the oldest that fits. Export it with a newer one."
        )
    try:
        found = ir.serde.deserialize_model(model)
        common.InlinePass()(found)
        common.RemoveInitializersFromInputsPass()(found)  # as those are, before IR version 4
        return ir.serde.serialize_model(found)
    except Exception as error:  # whatever a library raises of a graph that means nothing
        raise WeightsError(f"{path} is not a valid ONNX graph ({reason(error)}).") from error


def _pruned(model: ModelProto, outputs: Sequence[str]) -> ModelProto:
    import onnx_ir as ir
    from onnx_ir.passes import common

    found = ir.serde.deserialize_model(model)
    values = {value.name: value for value in found.graph.outputs}
    found.graph.outputs[:] = [values[name] for name in dict.fromkeys(outputs)]
    common.RemoveUnusedNodesPass()(found)
    return ir.serde.serialize_model(found)


def _nodes(graph: Any) -> list[Any]:
    from export.onnx_graph import graphs

    return [node for part in graphs(graph) for node in part.node]


def _port(value: ValueInfoProto) -> Port:
    """Return what a graph says of an input or output."""
    from onnx import TensorProto, helper

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(value.name, (kind or "value of no type").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except KeyError:
        dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
    if dtype not in ELEMENT_TYPES:
        dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return Port(value.name, dtype, None)
    sizes = [d.dim_value if d.dim_value > 0 else FREE for d in tensor.shape.dim]
    free = [d.dim_param or "?" for d, size in zip(tensor.shape.dim, sizes, strict=True) if size == FREE]
    return Port(value.name, dtype, tuple(sizes), tuple(free))
