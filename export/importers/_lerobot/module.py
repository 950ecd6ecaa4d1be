"""The deployable module of a policy of LeRobot: statistics and network in one graph.

camera ─► float ─► channels first ─► normalize ┐
joints ──────────────────────────► normalize ──┴► network ─► undo the action's normalization ─► chunk
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from export.importers._lerobot.act import ACT
from export.importers._lerobot.processors import Scaling

WHITE = 255.0
"""LeRobot's networks see images between 0 and 1."""


class Normalize(nn.Module):
    """Scalings, one after the other.

    Args:
        scalings: First to last.
        unit: What 1 is in the numbers that are given.
    """

    def __init__(self, scalings: Sequence[Scaling], unit: float = 1.0) -> None:
        super().__init__()
        self.shifts, self.unit = [scaling.shift for scaling in scalings], unit
        for i, scaling in enumerate(scalings):
            by = unit if i == 0 else 1.0  # else an image would be divided twice
            self.register_buffer(f"offset_{i}", scaling.offset * by)
            self.register_buffer(f"scale_{i}", scaling.scale * by)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, ...] normalized."""
        if not self.shifts:
            return x / self.unit if self.unit != 1 else x
        for i, shift in enumerate(self.shifts):
            x = (x - self.get_buffer(f"offset_{i}")) / self.get_buffer(f"scale_{i}")
            x = x - shift if shift else x
        return x


class Unnormalize(nn.Module):
    """The inverses of scalings, one after the other, first to last."""

    def __init__(self, scalings: Sequence[Scaling]) -> None:
        super().__init__()
        self.shifts = [scaling.shift for scaling in scalings]
        for i, scaling in enumerate(scalings):
            self.register_buffer(f"offset_{i}", scaling.offset)
            self.register_buffer(f"scale_{i}", scaling.unscale)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, ..., A] in the robot's units."""
        for i, shift in enumerate(self.shifts):
            x = (x + shift if shift else x) * self.get_buffer(f"scale_{i}") + self.get_buffer(f"offset_{i}")
        return x


class LeRobotModule(nn.Module):
    """A network of LeRobot's between what a robot gives and what it takes.

    Args:
        network: The network.
        images: Scalings of each camera, in the order of the network and of the first observations.
        vectors: Those of each vector, which follow.
        action: Those that are undone.
    """

    def __init__(
        self,
        network: ACT,
        images: Sequence[Sequence[Scaling]],
        vectors: Sequence[Sequence[Scaling]],
        action: Sequence[Scaling],
    ) -> None:
        super().__init__()
        self.network, self.dtype = network, torch.float32
        self.images = nn.ModuleList(Normalize(scalings, WHITE) for scalings in images)
        self.vectors = nn.ModuleList(Normalize(scalings) for scalings in vectors)
        self.action = Unnormalize(action)

    def cast(self, dtype: torch.dtype) -> None:
        """Let the network compute in ``dtype``; statistics stay exact."""
        self.dtype = dtype
        self.network.to(dtype)

    def forward(self, *observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chunk [B, H, A] in the robot's units (of one action [B, A]), and the same as its scores.

        Args:
            observations: Of each camera uint8 [B, H, W, 3], then vectors float32 [B, D].
        """
        count = len(self.images)
        images = [
            normalize(image.float().permute(0, 3, 1, 2)).to(self.dtype)
            for normalize, image in zip(self.images, observations[:count], strict=True)
        ]
        vectors = [
            normalize(vector).to(self.dtype)
            for normalize, vector in zip(self.vectors, observations[count:], strict=True)
        ]
        chunk = self.action(self.network(images, vectors).float())
        if chunk.shape[1] == 1:
            chunk = chunk.squeeze(1)
        return chunk, chunk
