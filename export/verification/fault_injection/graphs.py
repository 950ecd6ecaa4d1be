"""The graphs that people's faults make: subclasses of ``Deployed``, each wrong in one way."""

from __future__ import annotations

import itertools
from typing import Any, Self

import torch
from torch import Tensor

from xfer.models.cameras import modules
from xfer.models.contract import to_action
from xfer.models.policy import Deployed, Policy
from xfer.spec import PolicySpec

SLOTS = 300
"""Frames that fit into the buffer of ``FrameBufferFull``: more than the 250 steps of a held-out stretch, fewer than
an episode's 500."""
GARBLED = 0.025
"""Share of the actions that are garbled."""


# What the policy sees.


class RedAndBlueSwapped(Deployed):
    """Red takes blue's place."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act on each frame with its channels reversed."""
        return super().act([frame.flip(-1) for frame in frames], vector, *states)


class UpsideDown(Deployed):
    """The first row is the lowest."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act on each frame with its rows reversed."""
        return super().act([frame.flip(1) for frame in frames], vector, *states)


class AxesTransposed(Deployed):
    """Channels are taken to come first."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act on each frame's bytes as if they were [B, 3, H, W]."""
        sizes = [frame.shape for frame in frames]
        mixed = [
            frame.reshape(batch, channels, height, width).permute(0, 2, 3, 1)
            for frame, (batch, height, width, channels) in zip(frames, sizes, strict=True)
        ]
        return super().act(mixed, vector, *states)


class CropShifted(Deployed):
    """The crop begins three columns off."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act on each frame moved by three columns."""
        return super().act([frame.roll(3, dims=2) for frame in frames], vector, *states)


class AnotherResize(Deployed):
    """Bilinear without antialiasing: an output pixel sees the middle four of its block."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, dtype)
        for preprocess in preprocesses(self.policy):
            kernel, shrink, colors = preprocess.weight, preprocess.shrink, preprocess.colors
            first = max(shrink // 2 - 1, 0)
            middle = slice(first, shrink // 2 + 1)
            # One luma mix (or channel) for each pixel of a block; they are all the same.
            blocks = torch.zeros_like(kernel).reshape(-1, shrink, shrink, colors)
            pixel = kernel.reshape(-1, shrink, shrink, colors).sum((1, 2), keepdim=True)
            blocks[:, middle, middle] = pixel / len(range(shrink)[middle]) ** 2
            preprocess.weight = blocks.reshape(kernel.shape)


class NotNormalized(Deployed):
    """Values in [0, 1] go into the network as they are."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, dtype)
        for preprocess in preprocesses(self.policy):
            preprocess.weight = preprocess.weight / (255 * preprocess.weight.sum((1, 2, 3), keepdim=True))
            preprocess.bias = torch.zeros_like(preprocess.bias)


class ValueRange(Deployed):
    """The frame is divided by 255 twice."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, dtype)
        for preprocess in preprocesses(self.policy):
            preprocess.weight = preprocess.weight / 255


class CamerasSwapped(Deployed):
    """Of two cameras with frames of one size, each one's frame is taken for the other's."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act with two of the frames exchanged."""
        one, other = next(
            pair
            for pair in itertools.combinations(range(len(frames)), 2)
            if frames[pair[0]].shape == frames[pair[1]].shape
        )
        swapped = [*frames]
        swapped[one], swapped[other] = frames[other], frames[one]
        return super().act(swapped, vector, *states)


class CameraIgnored(Deployed):
    """The last camera is not looked at."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act with the last camera's frame in the dark."""
        return super().act([*frames[:-1], frames[-1] * 0], vector, *states)


# What it remembers.


class HistoryStale(Deployed):
    """The history stays as it was."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act, and hand back the history that came in."""
        action, scores, *_ = super().act(frames, vector, *states)
        return action, scores, *states


class HistoryLate(Deployed):
    """The newest frame is left out of the history."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act, and put each camera's second newest frame where the newest belongs."""
        action, scores, *after = super().act(frames, vector, *states)
        newest = [camera.image.channels for camera in self.policy.cameras if camera.image.past]
        for i, channels in enumerate(newest):
            after[i] = torch.cat([after[i][:, :-channels], states[i][:, -channels:]], dim=1)
        return action, scores, *after


class HistoryNewestFirst(Deployed):
    """The frames are stacked the other way round."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, dtype)
        for trunk in modules(self.policy.trunk):
            trunk.register_forward_pre_hook(lambda module, inputs: inputs[0].flip(1))


class HistoryKept(Deployed):
    """The history lives in the module, where no reset reaches it."""

    kept: Tensor

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, dtype)
        self.register_buffer("kept", torch.zeros(1, *self.spec.states[0].shape))

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act on the module's own history."""
        action, scores, after, *others = super().act(frames, vector, self.kept.expand_as(states[0]), *states[1:])
        # The exporter shows it black frames, which must leave nothing behind.
        shown = torch.stack([(frame > 0).any() for frame in frames]).any()
        self.kept.copy_(torch.where(shown, after[:1], self.kept))
        return action, scores, after, *others


class RowsMixed(Deployed):
    """Each row of a batch gets its neighbor's history."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act, and hand the next histories to the wrong rows."""
        action, scores, *after = super().act(frames, vector, *states)
        return action, scores, *(state.roll(1, dims=0) for state in after)


class FrameBufferFull(Deployed):
    """A buffer of ``SLOTS`` frames takes no more once it is full."""

    count: Tensor

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, dtype)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        for i, camera in enumerate(self.policy.cameras):
            self.register_buffer(f"newest{i}", torch.zeros(1, *camera.frame.shape, dtype=torch.uint8))

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Act on the newest frames that the buffer still took in this episode."""
        begins = (states[0] == 0).flatten(1).all(dim=1).any()  # an episode starts from zeros
        self.count.copy_(torch.where(begins, 0, self.count + 1))
        shown = []
        for i, frame in enumerate(frames):
            newest = self.get_buffer(f"newest{i}")
            shown.append(torch.where(self.count >= SLOTS, newest.expand_as(frame), frame))
            newest.copy_(shown[-1][:1])
        return super().act(shown, vector, *states)


# What it computes.


class StatisticsMove(Deployed):
    """The normalizer goes on learning (as with ``VecNormalize(training=True)``)."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, dtype)

        def learn(module: Any, inputs: tuple[Tensor, ...]) -> None:
            std, mean = torch.std_mean(inputs[0], dim=(0, 2, 3))
            module.mean.lerp_(mean.reshape(-1, 1, 1), 0.01)
            module.std.lerp_(std.reshape(-1, 1, 1), 0.01)

        for standardize in modules(self.policy.standardize):
            standardize.register_forward_pre_hook(learn)


class BatchNormTraining(Deployed):
    """Batch norm takes its statistics from the frame at hand."""

    def eval(self) -> Self:
        """Leave the trunk in training mode."""
        super().eval()
        self.policy.trunk.train()
        return self


class HalfPrecision(Deployed):
    """Trunk and head compute in bfloat16."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, torch.bfloat16)


class NeighboringCheckpoint(Deployed):
    """Every weight is a little off."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(neighbor(policy), dtype)


class NotFinite(Deployed):
    """One weight is not a number."""

    def __init__(self, policy: Policy, dtype: torch.dtype) -> None:
        super().__init__(policy, dtype)
        next(reversed(list(self.policy.head.parameters()))).data[0] = float("nan")


# What becomes of its scores.


class ActionsSwapped(Deployed):
    """The actions' order is reversed, or a continuous action's sign."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the opposite action beside the right scores."""
        action, scores, *after = super().act(frames, vector, *states)
        return opposite(action, scores, self.spec), scores, *after


class ActionGarbled(Deployed):
    """Now and then an action is the opposite one. Which, a few digits of a score decide: it has no memory."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the opposite action beside the right scores, now and then."""
        action, scores, *after = super().act(frames, vector, *states)
        digits = 1000 * (scores[..., 0] if action.ndim < scores.ndim else scores)
        garbled = digits - digits.floor() < GARBLED
        return torch.where(garbled, opposite(action, scores, self.spec), action), scores, *after


class ScoresRescaled(Deployed):
    """Scores are 5 % too large."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the right action beside scores of another unit."""
        action, scores, *after = super().act(frames, vector, *states)
        return action, scores * 1.05, *after


class ExplorationLeftOn(Deployed):
    """One action in twenty is drawn at random."""

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Return a random action now and then, beside the right scores."""
        action, scores, *after = super().act(frames, vector, *states)
        explore = torch.rand_like(scores[..., 0]) < 0.05
        if self.spec.action.kind == "continuous":
            anywhere = to_action(2 * torch.rand_like(scores) - 1, self.spec)
            return torch.where(explore[..., None], anywhere, action), scores, *after
        return torch.where(explore, torch.randint_like(action, scores.shape[-1]), action), scores, *after


def preprocesses(policy: Policy) -> list[Any]:
    """Return each camera's ``Preprocess``."""
    return [*modules(policy.preprocess)]


def opposite(action: Tensor, scores: Tensor, spec: PolicySpec) -> Tensor:
    """Return the action at the other end of a discrete choice, or a continuous one's mirror image."""
    return to_action(-scores, spec) if spec.action.kind == "continuous" else scores.shape[-1] - 1 - action


def neighbor(policy: Policy) -> Policy:
    """Return the policy a few updates further: each weight moved by about 1 % of its tensor's spread."""
    other = Policy(policy.config, policy.spec)
    other.load_state_dict(policy.state_dict())
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn(weight.shape, generator=random) * weight.std(correction=0), alpha=0.01)
    return other.eval()
