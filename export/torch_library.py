"""What the targets that run inside PyTorch share. Importing this does not import torch."""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING

from export.target import installed_versions
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from torch import Tensor


def available() -> str | None:
    """None if PyTorch and torchvision are installed, else how to get them."""
    if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
        return None
    return "PyTorch is not installed: pip install 'xfer-policy[train]'"


def no_compiler() -> str | None:
    """None if there is a C++ compiler, which Inductor needs, else what to install."""
    found = any(map(shutil.which, ("g++", "clang++", "c++")))
    return None if found else "Inductor needs a C++ compiler: install g++ or clang++"


def on_cuda() -> str | None:
    """None if PyTorch sees a CUDA GPU, else a sentence that says it does not."""
    import torch

    return None if torch.cuda.is_available() else "PyTorch sees no CUDA GPU"


def libraries() -> dict[str, str]:
    """Versions that decide what PyTorch computes."""
    return installed_versions("torch", "torchvision")


def example_inputs(spec: PolicySpec, batch: int) -> tuple[Tensor, ...]:
    """Return inputs for tracing: zeros of the spec's shapes and dtypes.

    A batch of 2, since PyTorch's exporters bake in a batch dimension that is 1 in the example.
    """
    import torch

    return tuple(torch.from_numpy(tensor.zeros(batch)) for tensor in spec.inputs)
