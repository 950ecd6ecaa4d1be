"""TorchScript: a plain trace, frozen and optimised when it is loaded (LibTorch runs the same file in C++)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.target import Exported, ExportRequest, Place
from export.torch_library import available, libraries, on_cuda
from xfer.errors import BundleError, UnavailableError
from xfer.runner import Session
from xfer.spec import PolicySpec

PRECISIONS = ("fp32",)
PLACES = ("cuda",)
FILE = "policy.pt"

__all__ = ["PLACES", "PRECISIONS", "available", "export", "libraries", "load", "runnable"]


def runnable(place: str) -> str | None:
    """PyTorch, and for ``cuda`` a GPU."""
    return available() or (on_cuda() if place == "cuda" else None)


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Trace the module with a batch of 2 and save the trace as it is.

    A module that was saved after ``optimize_for_inference`` does not load again, so that comes after loading.
    """
    import torch

    from export.torch_library import example_inputs

    module = request.policy.deploy(precision)
    with torch.no_grad(), warnings.catch_warnings():
        # PyTorch recommends torch.export instead; that is the aotinductor target's business.
        warnings.filterwarnings("ignore", "`torch.jit")
        traced = torch.jit.trace(module, example_inputs(request.spec, batch=2), check_trace=False)
        torch.jit.save(traced, str(folder / FILE))
    return Exported()


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Load, freeze, optimise."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"torchscript: {reason}")
    import torch

    from xfer.torch_session import TorchSession, set_threads

    set_threads(place.threads)
    device = place.name or "cpu"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        try:
            module = torch.jit.load(str(folder / FILE), map_location=device).eval()
        except RuntimeError as error:
            raise BundleError(f"{folder / FILE}: PyTorch cannot read it: {error}") from error
        module = torch.jit.optimize_for_inference(torch.jit.freeze(module))
    yield TorchSession(module, spec, device)
