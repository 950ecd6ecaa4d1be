"""The module of a policy that was trained elsewhere, as targets get it."""

from __future__ import annotations

import copy
import hashlib
import re

import torch
from safetensors.torch import save
from torch import Tensor, nn

from export.libraries.pytorch import example_inputs, trace
from xfer.errors import UsageError
from xfer.models.policy import Exportable
from xfer.spec import PolicySpec

PYTORCHS_OWN = frozenset(vars(nn.Module()))
"""Attributes of every module."""


class DeployedModule(nn.Module):
    """A copy of somebody's module in one precision, with inputs and outputs of the spec's types.

    Args:
        module: The module.
        spec: Its contract.
        dtype: What it computes in.
    """

    def __init__(self, module: nn.Module, spec: PolicySpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.spec = copied(module), spec
        self.dtype = None if dtype == torch.float32 else dtype
        self.casts_itself = hasattr(module, "cast")
        if self.dtype is not None:
            self.module.cast(dtype) if self.casts_itself else self.module.to(dtype)  # type: ignore[operator]
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the action, its scores and the next states."""
        if self.dtype is None:
            return tuple(self.module(*inputs))
        if not self.casts_itself:
            inputs = tuple(x.to(self.dtype) if x.is_floating_point() else x for x in inputs)
        return tuple(x.float() if x.is_floating_point() else x for x in self.module(*inputs))


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module; attributes that cannot be copied, such as a lock, are shared."""
    shared: dict[int, object] = {}
    for part in module.modules():
        if not isinstance(part, torch.jit.ScriptModule):
            for name, value in vars(part).items():
                if name not in PYTORCHS_OWN and not _can_be_copied(value):
                    shared[id(value)] = value
    with torch.no_grad():  # else the weights of TorchScript are copied as something that is computed
        return copy.deepcopy(module, shared)


def _can_be_copied(value: object) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:  # whatever somebody's class raises
        return False
    return True


def check(module: nn.Module, spec: PolicySpec) -> None:
    """Run a deployed module once, on zeros in a batch of 2, and see whether it fulfills its contract.

    Raises:
        UsageError: If not, with what differs.
    """
    try:
        with torch.inference_mode():
            outputs = module(*example_inputs(spec, batch=2))
    except Exception as error:  # whatever somebody's module raises
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UsageError(f"The module fails on zeros of its spec's shapes ({reason}).") from error
    wanted = [spec.action.tensor, spec.scores, *spec.states]
    found = [f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in outputs]
    due = [f"{tensor.dtype} {[2, *tensor.shape]}" for tensor in wanted]
    if found != due:
        raise UsageError(
            f"The module gives {', '.join(found)} for a batch of 2; its spec says {', '.join(due)}"
            f" ({', '.join(spec.output_names)})."
        )


def digest(policy: Exportable) -> str:
    """Return the SHA-256 of the weights and of what is computed with them, as 64 hexadecimal digits.

    Both, since the code is not ours: with other code the same weights are another policy.

    Raises:
        UsageError: If PyTorch cannot trace the module.
    """
    try:
        graph = trace(policy.deploy(), policy.spec).inlined_graph
    except Exception as error:  # whatever somebody's module raises
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"PyTorch cannot trace the module ({type(error).__name__}: {reason}).") from error
    nodes = [node for node in graph.findAllNodes("prim::Constant") if node.hasAttribute("value")]
    constants = [node.t("value") for node in nodes if node.kindOf("value") == "t"]
    known = {name: value.detach().contiguous().clone() for name, value in policy.state_dict().items()}
    known |= {f"constant {i}": value.contiguous().clone() for i, value in enumerate(constants)}
    # Without the names of classes, which PyTorch numbers as it meets them.
    operations = re.sub(r"__torch__\.\S+", "", graph.str(False))
    return hashlib.sha256(operations.encode() + save(known)).hexdigest()
