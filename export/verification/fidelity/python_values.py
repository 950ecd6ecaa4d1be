"""Finds where a module turns a tensor's value into a Python value, which a trace would bake in.

A module is called under two of PyTorch's modes. One sees every operation and follows which tensors depend on the
inputs; the other sees which function of PyTorch the module's Python called. A conversion of a tensor that depends on
the inputs is a finding, with the line of Python that made it. None are:

- conversions of weights and other constants, whose value stays;
- control flow inside TorchScript, which a trace keeps;
- an index or a number that is handed as a tensor to an operation, or the size of ``x[x > 0]``: a trace keeps most.
  ``Found.implied`` lists them, to be compared with what PyTorch warns of while it traces;
- a check: an ``assert``, or an ``if`` that only raises or warns. It decides nothing that a trace could bake in.

As long as no conversion is found, a module's Python takes the same path whatever its inputs are. So a few calls are
enough.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export.verification.fidelity.python_source import is_check

BRANCHES = ("__bool__", "is_nonzero", "equal", "allclose", "__contains__")
NUMBERS = ("item", "tolist", "__int__", "__float__", "__complex__", "__index__")
ARRAYS = ("numpy", "__array__", "__dlpack__")
CONSTRUCTORS = ("tensor", "new_tensor", "as_tensor", "asarray")
TEXTS = ("__format__", "__repr__", "__str__")
CUTS = ("unbind", "split", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
"""Functions that give as many tensors as a dimension is long."""
SIZES = ("numel", "nelement", "size", "__len__", "unbind")
PICKS = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "index")
"""Operations whose result is as large as their inputs' values say; ``index`` where it is given a mask."""
READS = tuple(getattr(torch.ops.aten, name).default for name in ("_local_scalar_dense", "equal", "allclose"))
"""The operations by which a value gets to Python, but for those of ``ARRAYS`` and ``tolist``."""
FILLED = ("zeros", "ones", "full", "empty")
"""``zeros_like(x)``, ``x.new_zeros()`` ...: tensors made of another's shape, not of its values."""

TORCH = str(Path(torch.__file__).parent)
MACHINERY = tuple(f"{TORCH}/{name}" for name in ("overrides", "_tensor", "_ops", "utils/", "jit/"))
"""What lies between a line of Python and the modes here."""


@dataclass(frozen=True)
class Site:
    """A line of Python that makes a Python value of a tensor.

    Attributes:
        what: What it makes, as "branch on a tensor's value".
        file: Its file.
        line: Its line, from 1.
    """

    what: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.what} at {shown(self.file)}:{self.line}"


@dataclass
class Found:
    """What was found.

    Attributes:
        baked: Conversions, in the order of their first call.
        implied: Tensors that were handed on as an index or a number, and sizes that depend on values.
    """

    baked: list[Site] = field(default_factory=list)
    implied: list[Site] = field(default_factory=list)


def python_values(module: Callable[..., Any], calls: Iterable[Sequence[Tensor]]) -> Found:
    """Call a module and find where it makes Python values of its inputs' values.

    A module that fails here does so elsewhere too, or PyTorch's modes are not for it (as for one that is compiled).
    What was found until then is returned.

    Args:
        module: The module.
        calls: The inputs of each call. Batches of two sizes show loops over the rows.
    """
    found = Found()
    lengths: dict[tuple[str, int], int] = {}
    for inputs in calls:
        watch = _Watch(found, lengths)
        for tensor in inputs:
            watch.follow(tensor)
        with suppress(Exception), torch.no_grad(), _Functions(watch), _Operations(watch):
            _call(module, inputs)
    return found


def _call(module: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    """Call it; above this frame nothing is the module's."""
    module(*inputs)


def shown(file: str) -> str:
    """Return a file's name as its user knows it: from the current folder, or from where it was imported."""
    for folder in (Path.cwd(), *sorted(map(Path, sys.path), key=lambda path: -len(str(path)))):
        if Path(file).is_relative_to(folder) and folder.is_absolute():
            return str(Path(file).relative_to(folder))
    return file


class _Watch:
    """Follows tensors through one call. All are kept until it ends, so that no memory is used twice."""

    def __init__(self, found: Found, lengths: dict[tuple[str, int], int]) -> None:
        self.found, self.lengths = found, lengths
        self.functions: list[Any] = []
        self._dependent: set[int] = set()
        self._picked: set[int] = set()
        self._kept: list[Tensor] = []

    def follow(self, tensor: Tensor) -> None:
        """Note that a tensor depends on the inputs."""
        self._dependent.add(_memory(tensor))
        self._kept.append(tensor)

    def keep(self, tensor: Tensor) -> None:
        """Keep a tensor that does not."""
        self._kept.append(tensor)

    def depends(self, values: Any) -> bool:
        """Whether any tensor among arguments depends on the inputs."""
        return any(isinstance(x, Tensor) and _memory(x) in self._dependent for x in tree_leaves(values))

    def picks(self, tensor: Tensor) -> None:
        """Note that a tensor's size depends on the inputs' values."""
        self._picked.add(_memory(tensor))

    def picked(self, values: Any) -> bool:
        """Whether the size of any tensor among arguments depends on the inputs' values."""
        return any(isinstance(x, Tensor) and _memory(x) in self._picked for x in tree_leaves(values))

    def converts(self, name: str, *, implied: bool = False) -> None:
        """Enter the present line as one that converts, unless it only checks."""
        frames = _frames()
        if name in TEXTS or is_check([frame for frame in frames if not frame.f_code.co_filename.startswith(MACHINERY)]):
            return
        what = "branch on a tensor's value" if name in BRANCHES else "Python value made of a tensor"
        what = "NumPy array made of a tensor" if name in ARRAYS else what
        self._enter(self.found.implied if implied else self.found.baked, what, frames)

    def cuts(self, count: int) -> None:
        """Enter the present line if it gave another number of tensors in a batch of another size."""
        frames = _frames()
        frame = _users(frames)
        if self.lengths.setdefault((frame.f_code.co_filename, frame.f_lineno), count) != count:
            self._enter(self.found.baked, "loop over the rows of a batch", frames)

    def _enter(self, sites: list[Site], what: str, frames: list[FrameType]) -> None:
        frame = _users(frames)
        site = Site(what, frame.f_code.co_filename, frame.f_lineno)
        if site not in sites:
            sites.append(site)


class _Functions(TorchFunctionMode):
    """Sees each function of PyTorch that Python calls."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        watch, name = self._watch, getattr(func, "__name__", "")
        if name in (*ARRAYS, "tolist") and watch.depends(args):
            watch.converts(name)
        values = args[1:] if name == "new_tensor" else args  # whose own tensor only lends its type and device
        if name in CONSTRUCTORS and watch.depends((values, kwargs)):
            given = (*values, *(kwargs or {}).values())
            # As a tensor and not among other values, as_tensor only hands it on.
            if name in ("tensor", "new_tensor") or not any(isinstance(x, Tensor) and watch.depends(x) for x in given):
                watch.converts(name)
        if (name in SIZES or getattr(func, "__self__", None) is Tensor.shape) and watch.picked(args[:1]):
            watch.converts(name, implied=True)
        watch.functions.append(func)
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            watch.functions.pop()
        if name in CUTS and watch.depends(args):
            watch.cuts(len(result))
        return result


class _Operations(TorchDispatchMode):
    """Sees each operation, also those inside of functions and of TorchScript."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        watch, kwargs = self._watch, kwargs or {}
        depends = watch.depends((args, kwargs))
        if depends and func in READS and watch.functions:  # without one it is TorchScript's own
            function = watch.functions[-1]
            name = getattr(function, "__name__", "")
            explicit = name in BRANCHES + NUMBERS + TEXTS or hasattr(function, "__code__")
            watch.converts(name, implied=not explicit)
        result = func(*args, **kwargs)
        operation = func._schema.name.partition("::")[2]
        follows = depends and operation.replace("new_", "").split("_")[0] not in FILLED
        masks = operation != "index" or any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])
        picks = (depends and operation in PICKS and masks) or (watch.picked(args) and "put" not in operation)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                watch.follow(tensor) if follows else watch.keep(tensor)
                if picks and tensor.dim():
                    watch.picks(tensor)
        if depends and func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for tensor in tree_leaves(value):
                        watch.follow(tensor)
        return result


def _memory(tensor: Tensor) -> int:
    """Return a number for a tensor's memory, which its views share."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # of a kind that has none
        return id(tensor)


def _frames() -> list[FrameType]:
    """Return the frames between a mode and the call of the module, the innermost first."""
    frames, frame = [], sys._getframe(1)
    while frame.f_code is not _call.__code__ and frame.f_back is not None:
        if frame.f_code.co_filename != __file__:
            frames.append(frame)
        frame = frame.f_back
    return frames


def _users(frames: list[FrameType]) -> FrameType:
    """Return the innermost frame that is neither PyTorch's nor NumPy's."""
    libraries = (TORCH, str(Path(sys.modules["numpy"].__file__ or "").parent))
    return next((frame for frame in frames if not frame.f_code.co_filename.startswith(libraries)), frames[0])
