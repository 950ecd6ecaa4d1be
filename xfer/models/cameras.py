"""Several cameras in one policy: what each of them has of its own, and how training keeps their tensors together.

What one camera gives is a tensor; what several give is a list, with one for each, and so is all that is computed from
it until the head joins it. A policy with one camera has neither lists nor the modules below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Seen = Tensor | list[Tensor]
"""A tensor of the only camera, or a list of one for each."""

Shape = tuple[int, int, int]


class Each(nn.ModuleList):
    """A module of its own for each camera."""


class Pooled(Each):
    """The pooling of each camera, joined.

    Shape:
        A list of features [B, C, h, w] to [B, F], F together.
    """

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return what all cameras' features are pooled to, side by side."""
        return torch.cat([pool(one) for pool, one in zip(self, features, strict=True)], dim=1)


def each(modules: Sequence[nn.Module]) -> nn.Module:
    """Return the cameras' modules as one; of one camera it is that camera's itself."""
    return modules[0] if len(modules) == 1 else Each(modules)


def modules(module: nn.Module) -> list[Any]:
    """Return the modules of their own that cameras have; or the only one, which all share."""
    return list(module) if isinstance(module, Each) else [module]


def through(module: nn.Module, seen: Seen) -> Seen:
    """Return what a module gives of what cameras gave: each camera's own, or one that all share.

    Cameras that share a module go through it in one batch, so that batch norm sees in training what it will see later.
    """
    if isinstance(seen, Tensor):
        result: Tensor = module(seen)
        return result
    if isinstance(module, Each):
        return [own(one) for own, one in zip(module, seen, strict=True)]
    together: Tensor = module(torch.cat(seen))
    return list(together.unflatten(0, (len(seen), -1)).unbind())


def one_or_all(seen: Sequence[Tensor]) -> Seen:
    """Return a tensor for each camera as ``Seen``."""
    return seen[0] if len(seen) == 1 else list(seen)


def by_camera(seen: Seen) -> list[Tensor]:
    """Return ``Seen`` as a list: the other way round."""
    return [seen] if isinstance(seen, Tensor) else seen


class Packing:
    """How the tensors of several cameras lie in one: flattened, side by side.

    So training computes, keeps, shuffles and sends one tensor, whatever the number of cameras and their sizes.

    Args:
        shapes: Those of the cameras' tensors, [C, h, w], without the batch.

    Attributes:
        shape: That of all together: [P, 1, 1], or of one camera its own [C, h, w].
    """

    def __init__(self, shapes: Iterable[Shape]) -> None:
        self.shapes = tuple(shapes)
        self._sizes = [math.prod(shape) for shape in self.shapes]
        self.shape: Shape = self.shapes[0] if len(self.shapes) == 1 else (sum(self._sizes), 1, 1)

    def pack(self, seen: Seen) -> Tensor:
        """Return [B, P, 1, 1] of a list; the tensor itself of one camera."""
        if isinstance(seen, Tensor):
            return seen
        return torch.cat([one.flatten(1) for one in seen], dim=1)[..., None, None]

    def unpack(self, packed: Tensor) -> Seen:
        """Return what was packed."""
        if len(self.shapes) == 1:
            return packed
        parts = packed.flatten(1).split(self._sizes, dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]


class PackedStages(nn.Module):
    """Some of the stages of the cameras' trunks, between packed tensors.

    Args:
        inputs: How what goes in is packed.
        stages: Each camera's, or those that all share.
        outputs: How to pack what comes out; None leaves it a list.
    """

    def __init__(self, inputs: Packing, stages: nn.Module, outputs: Packing | None = None) -> None:
        super().__init__()
        self.inputs, self.stages, self.outputs = inputs, stages, outputs

    def forward(self, packed: Tensor) -> Seen:
        """Return features of the trunks' inputs, or of earlier features."""
        seen = through(self.stages, self.inputs.unpack(packed))
        return seen if self.outputs is None else self.outputs.pack(seen)
