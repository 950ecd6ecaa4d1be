"""What the targets that run inside PyTorch share. Importing this does not import torch."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from export.libraries import installed_versions
from export.libraries.causes import device_error, failure, not_loaded, reason
from export.libraries.layers import MODULE, Layer, of_torch
from xfer.runner import Session
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from export.onnx_graph import GraphPolicy
    from xfer.models.policy import Exportable
    from xfer.models.torch_session import TorchSession

PROFILER = "torch.profiler"
STEP = "xfer step"
"""Name of a call's range in a profile."""
TRACE = "policy.pt"
"""A traced module (https://docs.pytorch.org/docs/stable/jit.html): what it computes, without its Python."""


def available() -> str | None:
    """None if PyTorch and torchvision are installed, else how to get them."""
    if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
        return None
    return "PyTorch is not installed: pip install 'xfer-policy[train]'"


def no_compiler() -> str | None:
    """None if there is a C++ compiler, which Inductor needs, else what to install."""
    found = any(map(shutil.which, ("g++", "clang++", "c++")))
    return None if found else "Inductor needs a C++ compiler, g++ or clang++: apt-get install g++"


def on_cuda() -> str | None:
    """None if PyTorch sees a CUDA GPU, else why it does not: there is none, or its driver is too old."""
    import torch

    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA: pip install torch, as https://pytorch.org says"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a driver that is too old, and says that there is no GPU
        if torch.cuda.is_available():
            return None
        try:
            torch.cuda.init()
        except Exception as error:  # RuntimeError, AssertionError
            return f"PyTorch sees no CUDA GPU: {(device_error(error) or reason(error))}"
    return "PyTorch sees no CUDA GPU"


def try_out(place: str) -> str | None:
    """None if PyTorch adds two numbers there just now, else why not."""
    import torch

    device = "cuda" if place in ("cuda", "cudagraphs") else "cpu"
    try:
        done = (torch.ones(1, device=device) + 1).item() == 2
    except Exception as error:  # whatever PyTorch raises
        return failure(error).reason
    return None if done else f"PyTorch on {device} adds 1 and 1 wrongly"


def libraries() -> dict[str, str]:
    """Versions that decide what PyTorch computes."""
    return installed_versions("torch", "torchvision")


def quiet_compiler() -> None:
    """Keep off the terminal that PyTorch's compiler, once imported, finds no CUDA: it was not asked for."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def example_inputs(spec: PolicySpec, batch: int) -> tuple[Tensor, ...]:
    """Return inputs for tracing: zeros of the spec's shapes and dtypes.

    A batch of 2, since PyTorch's exporters bake in a batch dimension that is 1 in the example.
    """
    import torch

    return tuple(torch.from_numpy(tensor.zeros(batch)) for tensor in spec.inputs)


def trace(module: nn.Module, spec: PolicySpec, doubts: list[tuple[str, int]] | None = None) -> Any:
    """Return the module as a plain TorchScript trace, made with a batch of 2.

    Args:
        module: The module.
        spec: Its contract.
        doubts: Takes the lines (file, line) of which PyTorch warns that the trace may not hold what they do. Most such
            warnings are of what never changes; whether they matter is found out when a bundle is begun
            (``export/verification/fidelity/``), so elsewhere they are not shown.
    """
    import torch
    from torch.jit._trace import TracerWarning

    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TracerWarning)
        # PyTorch recommends torch.export instead; that is the aotinductor target's business.
        warnings.filterwarnings("ignore", "`torch.jit")
        traced = torch.jit.trace(module, example_inputs(spec, batch=2), check_trace=False)
    for warning in caught:
        if issubclass(warning.category, TracerWarning):
            if doubts is not None:
                doubts.append((warning.filename, warning.lineno))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return traced


def save_trace(traced: Any, path: Path) -> None:
    """Write what ``trace`` gave."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        torch.jit.save(traced, str(path))


def load_trace(path: Path, device: str = "cpu") -> Any:
    """Read a trace: a program of PyTorch's own operations, without Python.

    Raises:
        BundleError: If PyTorch cannot read it.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        try:
            return torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise not_loaded(error, f"{path}: PyTorch cannot read it: {error}") from error


def save_eager(policy: Exportable | GraphPolicy, folder: Path, doubts: list[tuple[str, int]] | None = None) -> None:
    """Write what ``load_eager`` reads; for ``doubts`` see ``trace``.

    For a policy of our own that is its weights and configuration. Of somebody else's we have no code that could build
    it again, and would not run theirs: there it is the trace, which PyTorch runs operation by operation.
    """
    from xfer.models.checkpoint import save_policy
    from xfer.models.policy import Policy

    if isinstance(policy, Policy):
        save_policy(policy, folder)
    else:
        save_trace(trace(policy.deploy(), policy.spec, doubts), folder / TRACE)


def load_eager(folder: Path) -> Any:
    """Return the deployed module that ``save_eager`` wrote.

    Raises:
        WeightsError: If the files of a policy of our own are damaged.
        BundleError: If the trace is.
    """
    if (folder / TRACE).exists():
        return load_trace(folder / TRACE)
    from xfer.models.checkpoint import load_policy

    return load_policy(folder).deploy()


def layers(session: Session, act: Callable[[], object], calls: int) -> list[Layer]:
    """Let ``torch.profiler`` record what a session does: see ``Profiled`` in ``export/targets/__init__.py``.

    The operations of a module in Python are called by the path of the module that they are in.
    """
    from torch import nn
    from torch.jit import ScriptModule
    from torch.profiler import ProfilerActivity, profile, record_function

    own = cast("TorchSession", session)
    on_gpu = own.device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with ExitStack() as stack:
        if isinstance(own.module, nn.Module) and not isinstance(own.module, ScriptModule):
            _name_ranges(own.module, stack)
        act()
        recorded = stack.enter_context(profile(activities=activities, record_shapes=True, with_flops=True))
        for _ in range(calls):
            with record_function(STEP):
                act()
    return of_torch([event for event in recorded.events() if event.name == STEP and not event.is_async], on_gpu)


def _name_ranges(module: nn.Module, stack: ExitStack) -> None:
    """Let each module that holds no other one be a range of its name while it runs."""
    from torch.profiler import record_function

    for name, part in module.named_modules():
        if any(part.children()) or not name:
            continue
        label = record_function(MODULE + name)

        def enter(_: object, __: object, label: record_function = label) -> None:
            label.__enter__()

        def leave(_: object, __: object, ___: object, label: record_function = label) -> None:
            label.__exit__(None, None, None)

        for handle in (part.register_forward_pre_hook(enter), part.register_forward_hook(leave)):
            stack.callback(handle.remove)
