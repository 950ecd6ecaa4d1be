"""Copies of somebody's module, of which parts may not be copyable: locks, generators, tensors of a backward graph."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections import deque
from collections.abc import Iterator
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

CONTAINERS = (list, tuple, set, frozenset, deque)


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a module, in which what cannot be copied is the original's.

    That is as little as possible: of a dict with a lock in it, the lock. A tensor that was computed is copied without
    its backward graph. See ``not_copied`` for weights that are shared.
    """
    whole = {id(tensor): tensor for tensor in _tensors(module) if tensor.is_leaf}
    values = [value for part in module.modules() for value in vars(part).values()]
    # What has a destructor owns more than memory: a copy's would close the original's.
    shared: dict[int, object] = {id(value): value for value in values if hasattr(type(value), "__del__")}
    # Without gradients, else the weights of TorchScript are copied as something that is computed.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterators that Python will not pickle any more
        # What leads back to a part that is being looked at can mostly be copied once that part can.
        for patient in (True, False):
            _share(module, shared, whole, {id(module)}, set(), patient)
        result: nn.Module = copy.deepcopy(module, dict(shared))
    twins = dict(result.named_modules())
    for name, part in module.named_modules():
        for slot in _slots(part):  # which nn.Module does not copy
            if name in twins and hasattr(part, slot) and not hasattr(twins[name], slot):
                setattr(twins[name], slot, getattr(part, slot))
    return result


def not_copied(module: nn.Module, duplicate: nn.Module) -> tuple[str, str] | None:
    """Return the name of a submodule whose weights a copy shares with its original, and why it could not be copied."""
    own, parts = {id(tensor): tensor for tensor in _tensors(module)}, dict(module.named_modules())
    for name, part in duplicate.named_modules():
        itself = parts.get(name) is part
        if any(id(tensor) in own for tensor in _tensors(part, recurse=itself)):
            try:
                with torch.no_grad():
                    copy.deepcopy(parts[name])
            except Exception as error:  # whatever somebody's class raises
                return name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return name, "its copy is itself"
    return None


def _share(
    value: object,
    shared: dict[int, object],
    whole: dict[int, Tensor],
    path: set[int],
    seen: set[int],
    patient: bool,
) -> None:
    """Enter into ``shared`` the innermost parts of a value that cannot be copied.

    Args:
        value: The value.
        shared: What is handed on instead of a copy, by the original's id.
        whole: Weights, which need not be copied to see whether the rest can be.
        path: The value and what holds it.
        seen: What was looked at.
        patient: Whether a value that leads back to what holds it is left alone.
    """
    if _can_be_copied(value, shared, whole) or id(value) in seen:
        return
    seen.add(id(value))
    back = False
    for part in _parts(value):
        back |= id(part) in path
        if id(part) not in path:
            _share(part, shared, whole, path | {id(part)}, seen, patient)
    if not (back and patient) and not _can_be_copied(value, shared, whole):
        shared[id(value)] = value.detach().clone() if isinstance(value, Tensor) else value


def _can_be_copied(value: object, shared: dict[int, object], whole: dict[int, Tensor]) -> bool:
    try:
        copy.deepcopy(value, {**whole, **shared})
    except Exception:  # whatever somebody's class raises
        return False
    return True


def _parts(value: Any) -> Iterator[object]:
    """Yield what a value holds."""
    if isinstance(value, (Tensor, ModuleType, type)):
        return
    if isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, dict):
        yield from [*value.keys(), *value.values()]
    elif isinstance(value, CONTAINERS):
        yield from [*value]
    try:
        yield from [*getattr(value, "__dict__", {}).values()]
    except ReferenceError:  # a proxy of what is gone
        return
    yield from [getattr(value, name, None) for name in _slots(value)]


def _slots(value: object) -> Iterator[str]:
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        yield from [slots] if isinstance(slots, str) else [*slots]


def _tensors(module: nn.Module, recurse: bool = True) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(recurse), module.buffers(recurse))
