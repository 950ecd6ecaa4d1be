"""Eager PyTorch: the deployed module as it is, through the same harness as everything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.libraries.pytorch import PROFILER, available, layers, libraries, load_eager, on_cuda, save_eager, try_out
from export.targets import Exported, ExportRequest, Place
from xfer.errors import UnavailableError
from xfer.runner import Session
from xfer.spec import PolicySpec

PRECISIONS = ("fp32",)
PLACES = ("channels_last", "cuda", "cudagraphs")
"""The last two run on a GPU; of these the second records its calls once and replays them as a CUDA graph."""

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
    """PyTorch, and for ``cuda`` and ``cudagraphs`` a GPU."""
    return available() or (on_cuda() if place in ("cuda", "cudagraphs") else None)


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write weights and configuration: our own code is the rest. Of somebody else's policy, a plain trace."""
    save_eager(request.policy, folder)
    return Exported()


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Build the module again, or read its trace."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"eager: {reason}")
    import torch

    from xfer.models.torch_session import TorchSession, set_threads

    set_threads(place.threads)
    module = load_eager(folder)
    if place.name == "channels_last":
        module = module.to(memory_format=torch.channels_last)
    device = "cuda" if place.name in ("cuda", "cudagraphs") else "cpu"
    if device == "cuda":
        # fp32 means fp32: TF32 would be another precision.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module = module.to(device)
    if place.name == "cudagraphs":
        # https://docs.pytorch.org/docs/stable/torch.compiler.html: the same kernels, without the time of launching them
        module = torch.compile(module, backend="cudagraphs", dynamic=False)
    yield TorchSession(module, spec, device)
