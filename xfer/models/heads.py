"""What reads a trunk's features in the place of ``fc``: standardizing, pooling, memory, readout."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xfer.models.cameras import Seen


class Standardize(nn.Module):
    """Subtract a mean and divide by a standard deviation, both fixed by ``fit``.

    Head-only training on a frozen trunk starts from features of any scale (a random trunk's most of all); joint
    angles and velocities come in units of their own.

    Args:
        shape: Shape of one row's statistics: [C, 1, 1] for one a channel, [D] for one an element.
        floor: The least standard deviation: what never moved while it was measured must not be blown up later.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int], floor: float = 1e-5) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("std", torch.ones(*shape))

    def fit(self, features: Tensor) -> None:
        """Take the statistics of features, float32 [N, C, h, w] or [N, D]."""
        over = [0, *(axis for axis, size in enumerate(self.mean.shape, start=1) if axis > 1 and size == 1)]
        std, mean = torch.std_mean(features, dim=over)
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.std.copy_(std.reshape(self.std.shape).clamp_min(self.floor))

    def forward(self, features: Tensor) -> Tensor:
        """Return standardized features, same shape."""
        return (features - self.mean) / self.std


class SpatialSoftmax(nn.Module):
    """Expected image coordinates of K learned feature maps (Levine et al. 2016, section 5.1).

    Shape:
        [B, C, h, w] to [B, 2 K], coordinates in [-1, 1].
    """

    columns: Tensor
    rows: Tensor

    def __init__(self, channels: int, keypoints: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, keypoints, 1)
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, size[0]), torch.linspace(-1, 1, size[1]), indexing="ij")
        self.register_buffer("rows", rows.reshape(-1), persistent=False)
        self.register_buffer("columns", columns.reshape(-1), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return where each feature map is, on average."""
        attention = self.maps(features).flatten(2).softmax(dim=-1)
        return torch.cat([(attention * self.columns).sum(-1), (attention * self.rows).sum(-1)], dim=1)


class Memory(nn.GRUCell):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) as PyTorch defines it, whose output is its next state.

    Written out in slices: PyTorch's own splits a tensor in three, behind which ExecuTorch takes the batch for fixed.

    Shape:
        What is read [B, I] and what was held before [B, M] to what is held now [B, M].
    """

    def forward(self, read: Tensor, held: Tensor) -> Tensor:  # type: ignore[override]  # there held may be left out
        """Return the next state."""
        size = self.hidden_size
        read = functional.linear(read, self.weight_ih, self.bias_ih)
        kept = functional.linear(held, self.weight_hh, self.bias_hh)
        reset = torch.sigmoid(read[:, :size] + kept[:, :size])
        update = torch.sigmoid(read[:, size : 2 * size] + kept[:, size : 2 * size])
        new = torch.tanh(read[:, 2 * size :] + reset * kept[:, 2 * size :])
        return new + update * (held - new)


class Head(nn.Sequential):
    """Pooling layers, perhaps a memory, then the readout, which is the last; a vector joins behind the pooling.

    Shape:
        Features [B, C, h, w] (of several cameras a list) and a vector [B, D] (or None) to scores [B, A]; with a memory,
        ``step`` does that.
    """

    def hidden(self, features: Seen, vector: Tensor | None = None) -> Tensor:
        """Return what the readout, or the memory before it, reads, [B, F + D]: pooled features, then the vector."""
        pooled: Any = features
        for layer in itertools.islice(self, len(self) - (1 if self.memory is None else 2)):
            pooled = layer(pooled)
        read: Tensor = pooled
        return read if vector is None else torch.cat([read, vector.to(read.dtype)], dim=1)

    @property
    def memory(self) -> Memory | None:
        """From [B, F + D] and what it held before, [B, M], to what it holds now; or None."""
        before = self[-2]
        return before if isinstance(before, Memory) else None

    @property
    def readout(self) -> nn.Module:
        """From [B, F + D], or from the memory, [B, M], to scores."""
        return self[-1]

    def step(self, features: Seen, vector: Tensor | None, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [B, A] and the next memory, float32 [B, M]."""
        assert self.memory is not None, "this head has no memory"
        hidden = self.hidden(features, vector)
        held: Tensor = self.memory(hidden, memory.to(hidden.dtype))
        return self.readout(held), held.float()

    def forward(self, features: Seen, vector: Tensor | None = None) -> Tensor:
        """Return scores."""
        scores: Tensor = self.readout(self.hidden(features, vector))
        return scores


def make_readout(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Module:
    """Return a linear layer, or with ``hidden`` sizes a perceptron with ReLU between its layers."""
    if not hidden:
        return nn.Linear(inputs, outputs)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((inputs, *hidden)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))
