"""Policy: preprocessing, history, a cut backbone and a head; ``deploy()`` gives what is exported.

frame ─► preprocess ─► newest ─┐
history ───────────────────────┴► three frames ─► trunk (lower | upper) ─► head ─► scores ─► action
                                                        ▲
                                        --train-from draws this line: left of it nothing moves
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xfer import backbones
from xfer.errors import UsageError, check_choice
from xfer.preprocess import Preprocess
from xfer.spec import ImageConfig, PolicySpec, ScoreKind, TensorSpec
from xfer.tasks import Task

HeadKind = Literal["spatial-softmax", "flatten", "average"]
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What ``deploy()`` can cast trunk and head to. int8 is a target's own step, after this."""


@dataclass(frozen=True)
class PolicyConfig:
    """How a policy is built, besides its weights.

    Attributes:
        backbone: A key of ``backbones.STAGES``.
        tap: The stage whose output the head reads; later stages are left out of the network.
        head: What takes the place of ``fc``.
        keypoints: Number of feature maps whose position a spatial softmax reports.
        image: How frames become the network's input.
    """

    backbone: str
    tap: str
    head: HeadKind
    keypoints: int
    image: ImageConfig


class Standardize(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel, both fixed by ``fit``.

    Head-only training on a frozen trunk starts from features of any scale (a random trunk's most of all).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def fit(self, features: Tensor) -> None:
        """Take the statistics of features, float32 [N, C, h, w]."""
        std, mean = torch.std_mean(features, dim=(0, 2, 3))
        self.mean.copy_(mean.reshape(-1, 1, 1))
        self.std.copy_(std.reshape(-1, 1, 1).clamp_min(1e-5))

    def forward(self, features: Tensor) -> Tensor:
        """Return standardised features, same shape."""
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


class Policy(nn.Module):
    """A pretrained trunk with a head for one task.

    Args:
        config: How to build it.
        spec: The contract it fulfils; ``make_spec`` derives one from a task.

    Raises:
        UsageError: If config and spec do not fit each other.
    """

    def __init__(self, config: PolicyConfig, spec: PolicySpec) -> None:
        super().__init__()
        image = config.image
        if image.frames * image.channels != 3:
            raise UsageError(
                f"{image.frames} frames of {image.channels} channels do not fit the backbone's three input"
                " channels: use 3 gray frames or 1 in colour."
            )
        self.config, self.spec = config, spec
        self.preprocess = Preprocess(spec.observations[0], image)
        self.trunk = backbones.build(config.backbone, config.tap)
        channels, height, width = self._feature_shape()
        self.standardize = Standardize(channels)
        scores = len(spec.action.elements)
        if config.head == "spatial-softmax":
            self.head = nn.Sequential(
                SpatialSoftmax(channels, config.keypoints, (height, width)),
                nn.Linear(2 * config.keypoints, scores),
            )
        elif config.head == "flatten":
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, scores))
        else:
            pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Sequential(pool, nn.Flatten(), nn.Linear(channels, scores))

    def _feature_shape(self) -> tuple[int, int, int]:
        was_training = self.trunk.training
        with torch.no_grad():
            features = self.trunk.eval()(torch.zeros(1, 3, *self.config.image.size))
        self.trunk.train(was_training)
        _, channels, height, width = features.shape
        return channels, height, width

    def see(self, frame: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the newest frame and the kept ones into the trunk's input.

        Args:
            frame: uint8 [B, H, W, 3].
            history: float32 [B, past * C, h, w], preprocessed earlier frames, oldest first.

        Returns:
            The trunk's input, float32 [B, 3, h, w], and the next history.
        """
        channels, image = self.config.image.channels, self.config.image
        window = torch.cat([history, self.preprocess(frame)], dim=1)
        seen = window[:, :: image.frame_step] if channels == 1 else window[:, -3:]
        return seen, window[:, channels:]

    def scores(self, seen: Tensor) -> Tensor:
        """Return scores, float32 [B, A], of the trunk's input, float32 [B, 3, h, w]."""
        scores: Tensor = self.head(self.standardize(self.trunk(seen)))
        return scores

    def split(self, train_from: str) -> tuple[nn.Sequential, nn.Sequential]:
        """Cut the network into what stays as it is and what is trained.

        Args:
            train_from: ``head``, ``all``, or the first stage that moves.

        Returns:
            ``lower`` (frozen) and ``upper`` (trained): ``scores(x) == upper(lower(x))``. They share the
            policy's own modules.

        Raises:
            UsageError: If the stage does not exist in this (cut) network.
        """
        stages = list(self.trunk.named_children())
        names = [name for name, _ in stages]
        check_choice("layer for --train-from", train_from, ["all", "head", *names[1:]])
        first = {"all": 0, "head": len(stages)}.get(train_from, -1)
        first = names.index(train_from) if first < 0 else first
        lower = nn.Sequential(*(module for _, module in stages[:first]))
        upper = nn.Sequential(*(module for _, module in stages[first:]), self.standardize, self.head)
        return lower, upper

    def fit_standardize(self, train_from: str, crossed: Tensor) -> None:
        """Fix the head's input scale from what crossed the freeze line, float32 [N, C, h, w].

        Only where the whole trunk is frozen: stages that are trained get their scale from batch norm, and one
        that was measured before training would be of another network.
        """
        if train_from == "head":
            self.standardize.fit(crossed)

    def deploy(self, precision: str = "fp32") -> Deployed:
        """Return the module that every target exports.

        Args:
            precision: What trunk and head compute in: ``fp32``, ``fp16`` or ``bf16``.
        """
        check_choice("precision", precision, PRECISIONS)
        return Deployed(self, PRECISIONS[precision]).eval()


class Deployed(nn.Module):
    """Raw observations and states in, the environment's own action out.

    ``forward(frame, history)`` gives ``(action, scores, history_out)``: see ``PolicySpec`` for names, shapes
    and dtypes. Nothing in it remembers anything between calls.
    """

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__()
        # A copy: casting the trunk must not touch the policy that is being trained.
        copy = Policy(policy.config, policy.spec)
        copy.load_state_dict(policy.state_dict())
        for parameter in copy.parameters():
            parameter.requires_grad_(False)
        copy.trunk.to(dtype)
        copy.standardize.to(dtype)
        copy.head.to(dtype)
        self.policy, self.dtype, self.spec = copy, dtype, policy.spec

    def forward(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the action, its scores and the next states."""
        history = states[0] if states else frame.new_zeros(0)
        if states:
            seen, next_history = self.policy.see(frame, history)
        else:
            seen, next_history = self.policy.preprocess(frame), history
        scores = self.policy.scores(seen.to(self.dtype)).float()
        return (scores.argmax(dim=1), scores, *((next_history,) if states else ()))


def make_spec(task: Task, image: ImageConfig, score_kind: ScoreKind) -> PolicySpec:
    """Derive the contract of a policy for ``task`` that preprocesses with ``image``."""
    states: tuple[TensorSpec, ...] = ()
    if image.past:
        states = (TensorSpec("history", "float32", (image.past * image.channels, *image.size)),)
    return PolicySpec(task.name, task.control_hz, task.observations, states, task.action, score_kind, task.reward)


def count_macs(policy: Policy) -> tuple[int, int]:
    """Return (executed parameters, multiply-accumulates) of one step, counted by PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    module = policy.deploy()
    inputs = [torch.zeros(1, *t.shape, dtype=getattr(torch, t.dtype)) for t in policy.spec.inputs]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    parameters = sum(math.prod(p.shape) for p in policy.parameters())
    return parameters, counter.get_total_flops() // 2
