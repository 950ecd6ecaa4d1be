"""Which layer of somebody's module is at fault: the first of which a call shows it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves


class Call(NamedTuple):
    """One call of a submodule: its name, itself, and the tensors that went in and came out."""

    name: str
    part: nn.Module
    given: list[Tensor]
    made: list[Tensor]


def not_finite(module: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Say which weight is NaN, or else which layer makes what is not finite of finite inputs; or return nothing.

    Args:
        module: The module, not cast.
        inputs: Of one call, finite.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            return f"Its weight `{name}` holds NaN."
    for name, part, given, made in _calls(module, inputs):
        if all(map(_finite, given)) and not all(map(_finite, made)):
            return f"No weight is NaN. It begins in {_described(name, part) if name else 'its own forward'}."
    return ""


def mixes_rows(module: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Name the first layer whose answer to the first row depends on the others, or return nothing.

    Args:
        module: The module.
        inputs: Of one call, [B, ...].
    """
    together: dict[str, Call] = {}
    for call in _calls(module, inputs):
        together.setdefault(call.name, call)
    for name, part, given, made in _calls(module, [tensor[:1] for tensor in inputs]):
        other = together.get(name)
        if name and other and _same(given, other.given) and not _same(made, other.made):
            return _described(name, part)
    return ""


def batch_norms(module: nn.Module) -> str:
    """Name the layers that normalize over their batch, or return nothing."""
    found = [_described(name, part) for name, part in module.named_modules() if _over_its_batch(part)]
    return ", ".join(found)


def _described(name: str, part: nn.Module) -> str:
    why = ""
    if _over_its_batch(part):
        why = " in training mode" if part.running_mean is not None else " without running statistics"
    return f"`{name}` ({type(part).__name__}{why})"


def _over_its_batch(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) and (part.training or part.running_mean is None)


def _calls(module: nn.Module, inputs: Sequence[Tensor]) -> list[Call]:
    """Return the calls of submodules, in the order of their ends: the innermost first; until one fails."""
    calls: list[Call] = []

    def note(name: str, part: nn.Module, given: Any, made: Any) -> None:
        calls.append(Call(name, part, _copies(given), _copies(made)))

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if not isinstance(part, torch.jit.ScriptModule):
                stack.callback(part.register_forward_hook(partial(note, name)).remove)
        try:
            with torch.no_grad():
                module(*(tensor.clone() for tensor in inputs))
        except Exception:  # whatever somebody's module raises
            return calls
    return calls


def _copies(values: Any) -> list[Tensor]:
    return [value.detach().clone() for value in tree_leaves(values) if isinstance(value, Tensor)]


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _same(alone: Sequence[Tensor], together: Sequence[Tensor]) -> bool:
    """Whether the first row of what a batch gave is what the row gave by itself; or it cannot be told."""
    for one, others in zip(alone, together, strict=False):
        if one.dim() and others.dim() and one.shape[1:] == others.shape[1:] and one.is_floating_point():
            first = others[: len(one)]
            if first.shape != one.shape or not torch.allclose(first, one, rtol=1e-3, atol=1e-5, equal_nan=True):
                return False
    return True
