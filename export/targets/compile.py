"""``torch.compile`` in the process that acts: the speed-up without exporting, at the price of a slow start."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.libraries import pytorch
from export.libraries.pytorch import libraries, on_cuda, quiet_compiler, try_out
from export.targets import Exported, ExportRequest, Place
from xfer.errors import UnavailableError, UsageError
from xfer.runner import Session
from xfer.spec import PolicySpec

PRECISIONS = ("fp32", "bf16")
PLACES = ("cuda",)
PRECISION = "precision.txt"
"""What the module is cast to when it is loaded; fp32 without this file."""

__all__ = ["PLACES", "PRECISIONS", "available", "export", "libraries", "load", "runnable", "try_out"]


def available() -> str | None:
    """PyTorch, and a C++ compiler wherever it runs."""
    return runnable("")


def runnable(place: str) -> str | None:
    """PyTorch, a C++ compiler, and for ``cuda`` a GPU."""
    missing = pytorch.available() or pytorch.no_compiler()
    return missing or (on_cuda() if place == "cuda" else None)


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Write weights and configuration; there is no file of what is compiled."""
    from xfer.models.checkpoint import save_policy
    from xfer.models.policy import Policy

    if not isinstance(request.policy, Policy):
        raise UsageError("torch.compile needs the policy's own Python, and a bundle holds no Python of somebody else's")
    save_policy(request.policy, folder)
    if precision != "fp32":
        (folder / PRECISION).write_text(precision, encoding="utf-8")
    return Exported()


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Build the module again and compile it for a batch of 1, with constants folded in; other batches on first use."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"compile: {reason}")
    import torch

    from xfer.models.checkpoint import load_policy
    from xfer.models.torch_session import TorchSession, set_threads

    quiet_compiler()
    set_threads(place.threads)
    device = place.name or "cpu"
    # Without freezing, what Inductor makes for a CPU is slower than eager.
    options: dict[str, Any] = {"freezing": True}
    precision = (folder / PRECISION).read_text(encoding="utf-8") if (folder / PRECISION).exists() else "fp32"
    module = torch.compile(load_policy(folder).deploy(precision).to(device), dynamic=False, options=options)
    session = TorchSession(module, spec, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own deprecations
        session.step({o.name: o.stacked.zeros(1) for o in spec.observations}, {s.name: s.zeros(1) for s in spec.states})
    yield session
