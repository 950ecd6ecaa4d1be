"""TorchScript: a plain trace, frozen and optimized when it is loaded (LibTorch runs the same file in C++)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.libraries.pytorch import TRACE, available, libraries, load_trace, on_cuda, save_trace, trace
from export.targets import Exported, ExportRequest, Place
from xfer.errors import UnavailableError
from xfer.runner import Session
from xfer.spec import PolicySpec

PRECISIONS = ("fp32",)
PLACES = ("cuda",)

__all__ = ["PLACES", "PRECISIONS", "available", "export", "libraries", "load", "runnable"]


def runnable(place: str) -> str | None:
    """PyTorch, and for ``cuda`` a GPU."""
    return available() or (on_cuda() if place == "cuda" else None)


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Trace the module with a batch of 2 and save the trace as it is.

    A module that was saved after ``optimize_for_inference`` does not load again, so that comes after loading.
    """
    save_trace(trace(request.policy.deploy(precision), request.spec), folder / TRACE)
    return Exported()


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Load, freeze, optimize."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"torchscript: {reason}")
    import torch

    from xfer.models.torch_session import TorchSession, set_threads

    set_threads(place.threads)
    device = place.name or "cpu"
    module = load_trace(folder / TRACE, device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        module = torch.jit.optimize_for_inference(torch.jit.freeze(module))
    yield TorchSession(module, spec, device)
