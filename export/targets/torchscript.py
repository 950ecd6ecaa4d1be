"""TorchScript: a plain trace, frozen and optimized when it is loaded (LibTorch runs the same file in C++)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.libraries.causes import reason
from export.libraries.pytorch import (
    PROFILER,
    TRACE,
    available,
    layers,
    libraries,
    load_trace,
    on_cuda,
    save_trace,
    trace,
    try_out,
)
from export.targets import Exported, ExportRequest, Place
from xfer.errors import UnavailableError
from xfer.runner import Session
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from torch.jit import ScriptModule

PRECISIONS = ("fp32",)
PLACES = ("cuda",)

__all__ = [
    "PLACES",
    "PRECISIONS",
    "PROFILER",
    "available",
    "export",
    "layers",
    "libraries",
    "load",
    "runnable",
    "try_out",
]


def runnable(place: str) -> str | None:
    """PyTorch, and for ``cuda`` a GPU."""
    return available() or (on_cuda() if place == "cuda" else None)


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Trace the module with a batch of 2 and save the trace as it is.

    A module that was saved after ``optimize_for_inference`` does not load again, so that comes after loading.
    """
    save_trace(trace(request.policy.deploy(precision), request.spec), folder / TRACE)
    _, failure = optimized(load_trace(folder / TRACE), request.spec)
    return Exported(notes=f"frozen, and not optimized: {failure}" if failure else "")


def optimized(module: ScriptModule, spec: PolicySpec, device: str = "cpu") -> tuple[ScriptModule, str]:
    """Return the module as it runs fastest, and why it is only frozen, where it is.

    What ``torch.jit.optimize_for_inference`` makes of a right module may fail when it runs (a pooling to a size that
    does not divide the input's), or compute something else. So it is tried once, on made-up inputs.
    """
    import torch

    rng = np.random.default_rng(0)
    made_up = [rng.random((1, *tensor.shape)) * (255 if tensor.dtype == "uint8" else 1) for tensor in spec.inputs]
    inputs = [
        torch.from_numpy(array.astype(tensor.dtype)).to(device)
        for array, tensor in zip(made_up, spec.inputs, strict=True)
    ]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", "`torch.jit")
        frozen = torch.jit.freeze(module)
        try:
            # Frozen once more, since it is optimized in place.
            faster = torch.jit.optimize_for_inference(torch.jit.freeze(module))
            found = faster(*inputs)[1]
        except RuntimeError as error:
            return frozen, reason(error)
        if not torch.allclose(found, frozen(*inputs)[1], rtol=1e-3, atol=1e-4, equal_nan=True):
            return frozen, "its scores are others then"
    return faster, ""


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Load, freeze, optimize."""
    if (missing := runnable(place.name)) is not None:
        raise UnavailableError(f"torchscript: {missing}")
    from xfer.models.torch_session import TorchSession, set_threads

    set_threads(place.threads)
    device = place.name or "cpu"
    module, _ = optimized(load_trace(folder / TRACE, device), spec, device)
    yield TorchSession(module, spec, device)
