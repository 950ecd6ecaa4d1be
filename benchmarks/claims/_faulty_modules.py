"""Modules that no trace can hold: they branch on a tensor's value, remember, or draw noise. Export must refuse them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.claims._random_policies import FORBIDDEN, RandomNet
from xfer.models.contract import to_action

LATE_CALL = (20, 800)
"""At which call a module that counts changes its mind."""


class FaultyModule(nn.Module):
    """A right module whose scores are changed by what a trace does not see.

    Args:
        inner: The right module.
        rng: Draws what is changed and how much.
    """

    def __init__(self, inner: RandomNet, rng: np.random.Generator) -> None:
        super().__init__()
        self.inner, self.strength = inner, ""
        self.action_only = bool(rng.random() < 0.4)
        self.amount = float(10 ** rng.uniform(-1, 0))
        self.element = int(rng.integers(len(inner.spec.action.elements)))
        self.signs = bool(rng.random() < 0.5)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the right action, scores and states, or changed ones."""
        action, scores, *states = self.inner(*inputs)
        other = self.changed(inputs, scores)
        action = to_action(other, self.inner.spec)
        return action, scores if self.action_only else other, *states

    def changed(self, inputs: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        """Return what becomes of the scores."""
        raise NotImplementedError

    def bend(self, scores: Tensor, share: Any) -> Tensor:
        """Return scores that lie ``share`` of the way to wrong ones."""
        if self.signs:
            return torch.where(scores < FORBIDDEN / 2, scores, scores * (1 - 2 * self.amount * share))
        shift = torch.zeros_like(scores[:1])
        shift[:, self.element] = 2 * self.amount * self.inner.units[self.element]
        bent: Tensor = scores + shift * share
        return bent


class Branching(FaultyModule):
    """Something of the observation is read in Python."""

    def __init__(self, inner: RandomNet, rng: np.random.Generator) -> None:
        super().__init__(inner, rng)
        self.how = list(READINGS)[int(rng.integers(len(READINGS)))]
        self.threshold = float(rng.uniform(-0.9, 0.9))
        self.column = -1 if rng.random() < 0.5 else int(rng.integers(4))  # the last one rises within an episode
        self.strength = f"{self.how}, column {self.column} > {self.threshold:.2f}"

    def changed(self, inputs: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        """Change the scores by what is read."""
        seen = inputs[0]
        level = seen[:, self.column] if seen.ndim == 2 else seen[:, 0, 0, self.column % 3].float() / 100 - 1
        return self.bend(scores, READINGS[self.how](level, self.threshold))


def _by_if(level: Tensor, threshold: float) -> float:
    if bool((level > threshold).any()):
        return 1.0
    return 0.0


def _by_item(level: Tensor, threshold: float) -> float:
    return float(level.max().item() > threshold)


def _by_float(level: Tensor, threshold: float) -> float:
    return float(level.mean() > threshold)


def _by_int(level: Tensor, threshold: float) -> int:
    return min(max(int((level.max() - threshold) * 4), 0), 1)


def _by_list(level: Tensor, threshold: float) -> float:
    return float(max(level.tolist()) > threshold)


def _by_numpy(level: Tensor, threshold: float) -> Tensor:
    return torch.from_numpy((level.numpy().mean(keepdims=True) > threshold).astype(np.float32))


def _by_length(level: Tensor, threshold: float) -> float:
    return float(len(torch.nonzero(level > threshold)) > 0)


def _by_comparison(level: Tensor, threshold: float) -> float:
    return 1.0 if level.amax() > threshold else 0.0


def _by_loop(level: Tensor, threshold: float) -> float:
    steps = 0
    while steps < 1 and level.amax() > threshold:
        steps += 1
    return float(steps)


def _by_first_row(level: Tensor, threshold: float) -> float:
    return float(level[0] > threshold)


def _by_new_tensor(level: Tensor, threshold: float) -> Tensor:
    return torch.tensor(float(level.max()) > threshold).float()


READINGS: dict[str, Callable[[Tensor, float], Any]] = {
    "if": _by_if,
    "item": _by_item,
    "float": _by_float,
    "int": _by_int,
    "list": _by_list,
    "numpy": _by_numpy,
    "length": _by_length,
    "comparison": _by_comparison,
    "loop": _by_loop,
    "first row": _by_first_row,
    "new tensor": _by_new_tensor,
}
"""Ways to read a tensor in Python; each returns 0 or 1."""


class Counting(FaultyModule):
    """The module counts its calls, and changes its mind at one of them."""

    count: Tensor
    total = 0

    def __init__(self, inner: RandomNet, rng: np.random.Generator) -> None:
        super().__init__(inner, rng)
        ways = ("attribute", "buffer", "in place", "parameter", "deque", "dictionary", "closure", "object", "class")
        self.way = ways[int(rng.integers(len(ways)))]
        self.after = int(rng.integers(*LATE_CALL))
        self.strength = f"{self.way}, from call {self.after} on"
        self.calls, self.before = 0, Counting.total
        self.seen: deque[int] = deque(maxlen=self.after)
        self.kept = {"calls": 0}
        self.counter = _Counter()
        self.tick = _closure()
        if self.way == "parameter":
            self.register_parameter("count", nn.Parameter(torch.zeros(())))
        else:
            self.register_buffer("count", torch.zeros(()))

    def changed(self, inputs: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        """Count, and change the scores once the count is reached."""
        if self.way in ("buffer", "in place", "parameter"):
            with torch.no_grad():
                if self.way == "buffer":
                    self.count = self.count + 1
                else:
                    self.count += 1
            return self.bend(scores, (self.count > self.after).float())
        return self.bend(scores, float(self._calls() > self.after))

    def _calls(self) -> int:
        if self.way == "attribute":
            self.calls += 1
            return self.calls
        if self.way == "deque":
            full = len(self.seen) == self.after
            self.seen.append(1)
            return self.after + full
        if self.way == "dictionary":
            self.kept["calls"] += 1
            return self.kept["calls"]
        if self.way == "class":
            Counting.total += 1
            return Counting.total - self.before
        return self.tick() if self.way == "closure" else self.counter.tick()


class _Counter:
    """Counts in an object of its own."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0

    def tick(self) -> int:
        self.calls += 1
        return self.calls


def _closure() -> Callable[[], int]:
    """Return what counts where no attribute shows it; copies of the module share the count."""
    calls = 0

    def tick() -> int:
        nonlocal calls
        calls += 1
        return calls

    return tick


class Remembering(FaultyModule):
    """The module keeps something of what it saw: a running mean, or its last answer."""

    mean: Tensor

    def __init__(self, inner: RandomNet, rng: np.random.Generator) -> None:
        super().__init__(inner, rng)
        self.way = ("running mean", "last scores")[int(rng.integers(2))]
        self.last: Tensor | None = None
        self.keep = float(rng.uniform(0.2, 0.95))
        self.strength = f"{self.way}, {self.keep:.2f} kept"
        self.register_buffer("mean", torch.zeros(len(inner.spec.action.elements)))

    def changed(self, inputs: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        """Mix the scores with what is kept of former ones."""
        allowed = scores > FORBIDDEN / 2
        if self.way == "running mean":
            self.mean.lerp_(torch.where(allowed, scores, 0).mean(0).detach(), 1 - self.keep)
            return torch.where(allowed, scores - self.mean, scores)
        before, self.last = self.last, scores.detach()
        if before is None or before.shape != scores.shape:
            return scores
        return torch.where(allowed & (before > FORBIDDEN / 2), self.keep * before + (1 - self.keep) * scores, scores)


class Noisy(FaultyModule):
    """The module draws noise."""

    def __init__(self, inner: RandomNet, rng: np.random.Generator) -> None:
        super().__init__(inner, rng)
        ways = ("dropout", "normal", "numpy", "exploration")
        self.way = ways[int(rng.integers(len(ways)))]
        self.strength = f"{self.way}, {self.amount:.2g}"

    def changed(self, inputs: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        """Change the scores at random."""
        if self.way == "dropout":
            return nn.functional.dropout(scores, 0.3 * self.amount, training=True)
        if self.way == "normal":
            return self.bend(scores, torch.randn_like(scores[:, :1]))
        if self.way == "numpy":
            return self.bend(scores, float(np.random.normal()))
        return self.bend(scores, (torch.rand_like(scores[:, :1]) < 0.2).float())


class RowsSeeEachOther(FaultyModule):
    """What a row of a batch gives depends on the others."""

    def __init__(self, inner: RandomNet, rng: np.random.Generator) -> None:
        super().__init__(inner, rng)
        self.way = ("mean of the batch", "largest of the batch", "batch norm", "row before")[int(rng.integers(4))]
        self.strength = f"{self.way}, {self.amount:.2g}"

    def changed(self, inputs: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        """Mix into each row what comes of all of them."""
        own = torch.where(scores < FORBIDDEN / 2, 0, scores)
        if self.way == "mean of the batch":
            others = own.mean(0, keepdim=True).expand_as(own)
        elif self.way == "largest of the batch":
            others = own.amax(0, keepdim=True).expand_as(own)
        elif self.way == "batch norm":
            others = (own - own.mean(0)) / (own.std(0, correction=0) + 0.01)
        else:
            others = own.roll(1, dims=0)
        return scores + self.amount * (others - own)


FAULTS: dict[str, Callable[[RandomNet, np.random.Generator], FaultyModule]] = {
    "branch on a tensor's value": Branching,
    "counter in the module": Counting,
    "module that remembers": Remembering,
    "module that draws noise": Noisy,
    "rows of a batch see each other": RowsSeeEachOther,
}
