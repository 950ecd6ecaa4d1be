"""Random faults of random strength in the weights of a right graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims._planted import Planted, Right, strength
from export.targets import Place, onnx
from xfer.runner import Session


def in_weight(
    right: Right, rng: np.random.Generator, change: Callable[[np.ndarray], np.ndarray], words: str
) -> Planted:
    """Return a session of the graph with one weight changed."""
    from onnx import ModelProto, TensorProto, numpy_helper

    model = ModelProto.FromString(right.graph)
    weights = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    tensor = weights[int(rng.integers(len(weights)))]
    changed = change(numpy_helper.to_array(tensor).copy()).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return Planted(opened(model, right), f"{tensor.name} {words}")


def opened(model: Any, right: Right) -> Session:
    """Return a session of an ONNX graph."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, onnx.FILE).write_bytes(model.SerializeToString())
        return right.stack.enter_context(onnx.load(Path(folder), right.spec, Place()))


def weight_scaled(right: Right, rng: np.random.Generator) -> Planted:
    """A weight tensor is multiplied."""
    factor = 1 + strength(rng, -5, 0) * rng.choice([-1, 1])
    return in_weight(right, rng, lambda weight: factor * weight, f"times {factor:.6g}")


def rows_swapped(right: Right, rng: np.random.Generator) -> Planted:
    """Two rows of a weight are mixed, up to changing places."""
    share, drawn = strength(rng, -3, 0), int(rng.integers(2**31))

    def change(weight: np.ndarray) -> np.ndarray:
        one, other = np.random.default_rng(drawn).choice(len(weight), 2, replace=False)
        weight[[one, other]] = (1 - share) * weight[[one, other]] + share * weight[[other, one]]
        return weight

    return in_weight(right, rng, change, f"{share:.2g} of two rows")


def layer_in_less_precision(right: Right, rng: np.random.Generator) -> Planted:
    """One layer's weights have fewer bits."""
    bits = int(rng.integers(1, 17))

    def change(weight: np.ndarray) -> np.ndarray:
        mantissa, exponent = np.frexp(weight)
        return np.asarray(np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent))

    return in_weight(right, rng, change, f"in {bits} bits")
