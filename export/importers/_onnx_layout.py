"""How a spec's tensors lie in somebody's graph: under which names, of which types, and where the batch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.importers._onnx_given import ELEMENT_TYPES, FLOATS, FREE, INTEGERS, Port
from xfer.errors import UsageError
from xfer.spec import TensorSpec

NO_BATCH = -1
"""Where the batch is of a tensor that has none: one row is all."""


@dataclass(frozen=True)
class Layout:
    """One tensor of a spec, and what it is in the graph.

    Attributes:
        tensor: It, as the spec has it: [B, *shape].
        port: What it is in the graph.
        axis: Which of the graph's dimensions is the batch, or ``NO_BATCH``.
        free: Whether the batch may be of any size; else it is 1.
    """

    tensor: TensorSpec
    port: Port
    axis: int
    free: bool

    def to_graph(self, array: np.ndarray) -> np.ndarray:
        """Return an array [B, ...] as the graph takes it."""
        array = array.astype(self.port.dtype)
        return array[0] if self.axis == NO_BATCH else np.moveaxis(array, 0, self.axis)

    def from_graph(self, array: np.ndarray) -> np.ndarray:
        """Return what the graph gave as an array [B, ...]."""
        array = array[None] if self.axis == NO_BATCH else np.moveaxis(array, self.axis, 0)
        return array.reshape(len(array), *self.tensor.shape).astype(self.tensor.dtype)


def of_input(tensor: TensorSpec, port: Port) -> Layout:
    """Find out how an observation or a state lies in an input of the graph.

    Raises:
        UsageError: If they do not fit: type, shape, or a free dimension that is not the batch.
    """
    what = f"'{tensor.name}' ({tensor.dtype} {list(tensor.shape)} a row)"
    if not fits_type(tensor.dtype, port.dtype):
        wanted = spec_type(port.dtype)
        hint = f"write {wanted}" if wanted else f"the graph must take {', '.join(ELEMENT_TYPES)}"
        raise UsageError(f"{what} is the graph's input {port}: the types do not fit; {hint}.")
    row, dims = row_shape(tensor), port.dims
    if dims is None:
        return Layout(tensor, port, 0, free=True)
    if len(port.free) > 1:
        raise UsageError(
            f"{what} is the graph's input {port}, with {len(port.free)} free dimensions; only the batch may be free."
            " Export it with fixed sizes."
        )
    axes = [dims.index(FREE)] if port.free else [axis for axis, size in enumerate(dims) if size == 1]
    for axis in axes:
        if without(dims, axis) == row:
            return Layout(tensor, port, axis, free=bool(port.free))
    if not port.free and dims == row:
        return Layout(tensor, port, NO_BATCH, free=False)
    batch = next((size for axis, size in enumerate(dims) if without(dims, axis) == row), None)
    if batch is not None and not port.free:
        raise UsageError(
            f"The graph's input {port} has a fixed batch of {batch}. Export it with a batch of 1, or a free one."
        )
    raise UsageError(f"{what} does not fit the graph's input {port}, batch included. Which of the two is right?")


def of_output(tensor: TensorSpec, name: str, one: np.ndarray, two: np.ndarray | None) -> Layout:
    """Find out how an action, scores or a next state lie in an output of the graph.

    Args:
        tensor: It.
        name: The output's.
        one: What a batch of 1 gave.
        two: What one of 2 gave, or None if the graph takes none.

    Raises:
        UsageError: If they do not fit.
    """
    port = Port(name, one.dtype.name, one.shape)
    whole = tensor.dtype == "int64" and port.dtype in (*INTEGERS, "uint8", "bool")
    kept = tuple(size for size in tensor.shape if size != 1)
    grows = () if two is None or two.ndim != one.ndim else zip(one.shape, two.shape, strict=True)
    free = [axis for axis, sizes in enumerate(grows) if sizes == (1, 2)]
    for axis in free or [axis for axis, size in enumerate(one.shape) if size == 1] or [NO_BATCH]:
        rest = one.shape if axis == NO_BATCH else without(one.shape, axis)
        if (port.dtype in FLOATS or whole) and tuple(size for size in rest if size != 1) == kept:
            return Layout(tensor, port, axis, free=bool(free))
    raise UsageError(
        f"'{tensor.name}' ({tensor.dtype} {list(tensor.shape)} a row) does not fit the graph's output {port}, as a"
        " batch of 1 gives it. Which of the two is right?"
    )


def row_shape(tensor: TensorSpec) -> tuple[int, ...]:
    """Return the shape of what a graph is fed for one row."""
    return tensor.stacked.shape


def without(dims: Sequence[int], axis: int) -> tuple[int, ...]:
    """Return a shape without one dimension."""
    return (*dims[:axis], *dims[axis + 1 :])


def spec_type(dtype: str) -> str:
    """Return how a spec calls elements that a graph calls ``dtype``, or nothing if it has no such."""
    if dtype in FLOATS:
        return "float32"
    if dtype in INTEGERS:
        return "int64"
    return "uint8" if dtype in ("uint8", "bool") else ""


def fits_type(given: str, taken: str) -> bool:
    """Whether what a spec calls ``given`` can be handed to a graph that takes ``taken``, each value as it is."""
    return given == spec_type(taken) or (given == "uint8" and taken in (*FLOATS, "int16", "int32", "int64"))
