"""What a module holds besides its code, as digests: what changes between two calls is remembered."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_VALUES = 20_000
"""How many values of one attribute are looked at."""

CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
PLAIN = (bool, int, float, complex, str, bytes, type(None))
PYTORCHS_OWN = frozenset(vars(nn.Module())) - {"training"}
"""Attributes of every module; parameters, buffers and submodules among them are looked at one by one."""


def fingerprint(module: nn.Module) -> dict[str, bytes]:
    """Return a digest of each parameter, buffer and attribute of a module and of its submodules, by name.

    An object is digested by what pickle would save of it. What cannot be pickled counts as its type.
    """
    return {name: _digest(value) for name, value in _attributes(module)}


def changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> str:
    """Return the name of the first attribute that differs, was added or is gone, or nothing."""
    return next((name for name in (*after, *before) if before.get(name) != after.get(name)), "")


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for place, part in module.named_modules():
        prefix = f"{place}." if place else ""
        tensors = itertools.chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False))
        yield from ((prefix + name, tensor) for name, tensor in tensors)
        yield from ((prefix + name, value) for name, value in _plain(part).items())


def _plain(part: nn.Module) -> dict[str, Any]:
    """Return a module's attributes that are neither parameters nor buffers nor modules."""
    if isinstance(part, torch.jit.ScriptModule):
        concrete = getattr(part, "_concrete_type", None)
        names = concrete.get_attributes() if concrete is not None else ()
        return {name: getattr(part, name, None) for name in names if name not in PYTORCHS_OWN}
    found: dict[str, Any] = {}
    for cls in reversed(type(part).__mro__):
        if cls.__module__.partition(".")[0] not in ("torch", "builtins"):
            found |= {name: value for name, value in vars(cls).items() if not _is_code(name, value)}
    return found | {name: value for name, value in vars(part).items() if name not in PYTORCHS_OWN}


def _is_code(name: str, value: object) -> bool:
    return name.startswith("__") or isinstance(value, CODE) or hasattr(type(value), "__get__")


def _digest(value: object) -> bytes:
    reader = _Reader()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterators that Python will not pickle any more
        reader.read(value)
    return reader.hash.digest()


class _Reader:
    """Reads one value into a digest."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self._seen: dict[int, tuple[int, object]] = {}  # with the objects, so that no id is given twice
        self._left = MOST_VALUES

    def read(self, value: object) -> None:
        """Add a value and what is in it."""
        self._left -= 1
        if self._left < 0:
            return
        self.hash.update(f"\0{type(value).__qualname__}\0".encode())
        if isinstance(value, PLAIN):
            self.hash.update(repr(value).encode())
        elif isinstance(value, CODE):
            self.hash.update(str(getattr(value, "__qualname__", getattr(value, "__name__", ""))).encode())
        elif id(value) in self._seen:
            self.hash.update(str(self._seen[id(value)][0]).encode())
        else:
            self._seen[id(value)] = (len(self._seen), value)
            try:
                self._read_parts(value)
            except Exception:  # whatever somebody's class raises; then its type must do
                self.hash.update(b"?")

    def _read_parts(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self.hash.update(f"{value.dtype}{list(value.shape)}".encode())
            self.hash.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.hash.update(f"{value.dtype}{value.shape}".encode())
            self.hash.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, torch.Generator):
            self.read(value.get_state())
        elif isinstance(value, set | frozenset):
            for digest in sorted(map(_digest, itertools.islice(value, self._left))):
                self.hash.update(digest)
        elif type(value) in (list, tuple):
            for part in value:
                self.read(part)
        elif type(value) is dict:
            for key, part in value.items():
                self.read(key)
                self.read(part)
        else:
            self._read_reduced(value.__reduce_ex__(4))

    def _read_reduced(self, reduced: Any) -> None:
        if isinstance(reduced, str):
            self.read(reduced)
            return
        for part in reduced[:3]:
            self.read(part)
        for items in reduced[3:5]:
            for item in () if items is None else items:
                if self._left < 0:
                    return
                self.read(item)
