"""Policy: preprocessing, history, a cut backbone and a head; ``deploy()`` gives what is exported.

frame ─► preprocess ─► newest ─┐
history ───────────────────────┴► three frames ─► trunk ─► pool ─┬► readout ─► scores ─► action
another camera likewise ─────────────────────────────────────────┤ ▲
vectors ───────────────────────────────────────► standardize ────┘ with --memory gru a GRU stands here

``--train-from`` cuts the trunk: what lies before it is frozen, the rest is trainable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from xfer.errors import UsageError, check_choice
from xfer.models import backbones
from xfer.models.cameras import (
    PackedStages,
    Packing,
    Pooled,
    Seen,
    Shape,
    by_camera,
    each,
    modules,
    one_or_all,
    through,
)
from xfer.models.config import PolicyConfig
from xfer.models.contract import cameras_of, memory_of, states_of, to_action
from xfer.models.heads import Head, Memory, SpatialSoftmax, Standardize, make_readout
from xfer.models.preprocess import Preprocess
from xfer.spec import PolicySpec

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What ``deploy()`` can cast trunk and head to. int8 is a target's own step, after this."""

MIN_DEVIATION = 1e-3
"""Least standard deviation of a vector's element, in its unit: more than a sensor's noise, less than a motion."""


class Exportable(Protocol):
    """A policy as targets need it: xfer's own ``Policy`` is one, and so is a user's ``Deployable``."""

    @property
    def spec(self) -> PolicySpec:
        """Its contract."""

    def deploy(self, precision: str = "fp32") -> nn.Module:
        """Return the module to export, in eval mode, with its contract as ``spec``.

        ``forward(*observations, *states)`` gives ``(action, scores, *next_states)``.
        """

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights that were trained."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """All its weights by name."""


class Policy(nn.Module):
    """A pretrained trunk with a head for one task.

    It sees one image or several, and any number of vectors, which join where the pooled features are read. Several
    cameras share a trunk, or have one each (``PolicyConfig.trunks``); standardizing and pooling are each one's own.

    Args:
        config: How to build it.
        spec: The contract it fulfills; ``make_spec`` derives one from a task.

    Attributes:
        cameras: The images among the spec's observations, in its order.
        seen: How the trunk's inputs of all cameras are packed into one tensor.
        past: The same of the frames that are kept.
        vector_names: Names of the vectors, in the spec's order.
        vector_size: Their elements together, D.
        history_shape: Shape of the kept frames of one row, packed; [0, h, w] of one camera that keeps none.
        framed: Whether the runner keeps earlier frames (``TensorSpec.frames``), and not the policy's states.
        head_size: What the readout reads: pooled features and vectors, F + D, or the memory, M.

    Raises:
        UsageError: If config and spec do not fit each other.
    """

    def __init__(self, config: PolicyConfig, spec: PolicySpec) -> None:
        super().__init__()
        config.check()
        self.config, self.spec = config, spec
        planned = (spec.action.horizon, spec.action.execute)
        if planned != (config.horizon, config.execute):
            raise UsageError(f"The spec's horizon and execute are {planned}, not those of the policy's configuration.")
        self.framed = any(observation.frames > 1 for observation in spec.observations)
        self.cameras, vectors = cameras_of(config, spec)
        wanted = memory_of(config.memory_units) if self.framed else states_of(self.cameras, config.memory_units)
        if spec.states != wanted:
            names = ", ".join(f"{state.name} {list(state.shape)}" for state in spec.states)
            raise UsageError(f"The states of the spec ({names or 'none'}) are not those of the policy's configuration.")
        for frame, image in self.cameras:
            if frame.frames != (due := image.past + 1 if self.framed else 1):
                raise UsageError(f"'{frame.name}' has frames {frame.frames}; the policy's configuration {due}.")
        self.vector_names = tuple(vector.name for vector in vectors)
        self.vector_size = sum(math.prod(vector.shape) for vector in vectors)
        self.seen = Packing((3, *camera.image.size) for camera in self.cameras)
        self.past = Packing(camera.kept for camera in self.cameras)
        self.history_shape = self.past.shape
        self.preprocess = each([Preprocess(camera.frame, camera.image) for camera in self.cameras])
        trunks = len(self.cameras) if config.trunks == "each" else 1
        self.trunk = each([backbones.build(config.backbone, config.tap) for _ in range(trunks)])
        shapes = _shapes(self.trunk, self.seen)
        self.standardize = each([Standardize((channels, 1, 1)) for channels, _, _ in shapes])
        self.standardize_vector = Standardize((self.vector_size,), MIN_DEVIATION) if self.vector_size else nn.Identity()
        pools = [_pool(config, shape) for shape in shapes]
        pool = pools[0] if len(pools) == 1 else [Pooled(nn.Sequential(*layers) for layers in pools)]
        pooled = sum(_pooled_size(config, shape) for shape in shapes)
        joined = pooled + self.vector_size
        units = config.memory_units
        self.head_size = units or joined
        memory = [Memory(joined, units)] if units else []
        scores = len(spec.action.elements)
        readout = self.make_readout(config.horizon * scores)
        if config.horizon > 1:
            readout = nn.Sequential(readout, nn.Unflatten(1, (config.horizon, scores)))
        self.head = Head(*pool, *memory, readout)

    def make_readout(self, outputs: int) -> nn.Module:
        """Return a new module that reads what this policy's own readout does, [B, head_size] to [B, outputs]."""
        return make_readout(self.head_size, self.config.hidden, outputs)

    @property
    def readout(self) -> nn.Module:
        """What turns pooled features and vectors, or the memory, into scores."""
        return self.head.readout

    def see(self, observations: Mapping[str, Tensor], history: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the newest frame of each camera and the kept ones into the trunk's input.

        Args:
            observations: uint8 [B, H, W, C] of each camera, by name.
            history: float32 [B, *history_shape], preprocessed earlier frames, oldest first.

        Returns:
            The trunk's input, float32 [B, 3, h, w], of several cameras packed as ``seen`` says; and the next history.
        """
        frames = [observations[camera.frame.name] for camera in self.cameras]
        seen, after = self.look(frames, by_camera(self.past.unpack(history)))
        return self.seen.pack(one_or_all(seen)), self.past.pack(one_or_all(after))

    def look(self, frames: Sequence[Tensor], kept: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
        """Do so with a tensor for each camera, unpacked; ``kept`` of one that keeps nothing is not looked at."""
        found, after = [], []
        own = zip(self.cameras, modules(self.preprocess), frames, kept, strict=True)
        for camera, preprocess, frame, earlier in own:
            channels, image = camera.image.channels, camera.image
            window = preprocess(frame)
            if image.past:
                assert earlier is not None
                window = torch.cat([earlier, window], dim=1)
            found.append(window[:, :: image.frame_step] if channels == 1 else window[:, -3:])
            after.append(window[:, channels:])
        return found, after

    def begun(self, observations: Mapping[str, Tensor], history: Tensor, begins: Tensor) -> Tensor:
        """Return the history with which episodes begin, in the rows where one does.

        That is zeros, as a state is at first; or copies of the first frames, where the runner keeps frames.

        Args:
            observations: uint8 [B, H, W, C] of each camera, by name.
            history: float32 [B, *history_shape].
            begins: Which rows, bool [B].
        """
        first = torch.zeros_like(history)
        if self.framed:
            own = zip(self.cameras, modules(self.preprocess), strict=True)
            kept = [
                preprocess(observations[camera.frame.name]).repeat(1, camera.image.past, 1, 1)
                for camera, preprocess in own
            ]
            first = self.past.pack(one_or_all(kept))
        return torch.where(begins[:, None, None, None], first, history)

    def unstacked(self, observations: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the newest frames, and each camera's earlier ones, preprocessed, of frames that the runner has kept.

        Args:
            observations: Tensors by name, an image uint8 [B, past + 1, H, W, C], the newest last; of a camera that
                keeps none [B, H, W, C].
        """
        newest, earlier = dict(observations), []
        for camera, preprocess in zip(self.cameras, modules(self.preprocess), strict=True):
            if camera.image.past:
                frames = observations[camera.frame.name]
                newest[camera.frame.name] = frames[:, -1]
                earlier.append(preprocess(frames[:, :-1].flatten(0, 1)).reshape(-1, *camera.kept))
        return newest, earlier

    def vector(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return the observations' vectors as one, as they came: float32 [B, D], where D may be 0."""
        if not self.vector_names:
            frame = observations[self.cameras[0].frame.name]
            return torch.zeros(len(frame), 0, device=frame.device)
        return torch.cat([observations[name].flatten(1) for name in self.vector_names], dim=1)

    def scores(self, seen: Seen, vector: Tensor | None = None) -> Tensor:
        """Return scores, float32 [B, A].

        Args:
            seen: The trunk's input [B, 3, h, w], of several cameras packed, or as a list.
            vector: What ``vector`` gave [B, D].
        """
        scores: Tensor = self.head(self._features(seen), _standardized(self.standardize_vector, vector))
        return scores

    def step(self, seen: Seen, vector: Tensor | None, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores as well as the next memory, float32 [B, M], of a policy with or without one (M is 0)."""
        if not self.config.memory_units:
            return self.scores(seen, vector), memory
        return self.head.step(self._features(seen), _standardized(self.standardize_vector, vector), memory)

    def _features(self, seen: Seen) -> Seen:
        parts = self.seen.unpack(seen) if isinstance(seen, Tensor) else seen
        return through(self.standardize, through(self.trunk, parts))

    def split(self, train_from: str) -> tuple[nn.Module, Trainable]:
        """Cut the network into its frozen and its trainable part.

        Args:
            train_from: ``head``, ``all``, or the first stage that is trained.

        Returns:
            ``frozen`` and ``trainable``: ``scores(x, v) == trainable(frozen(x), v)``. They share the policy's own
            modules. The features between them are float32 [B, C, h, w], of several cameras packed.

        Raises:
            UsageError: If the stage does not exist in this (cut) network.
        """
        trunks = modules(self.trunk)
        names = [name for name, _ in trunks[0].named_children()]
        check_choice("layer for --train-from", train_from, ["all", "head", *names[1:]])
        first = {"all": 0, "head": len(names)}.get(train_from, -1)
        first = names.index(train_from) if first < 0 else first
        frozen = each([nn.Sequential(*list(trunk.children())[:first]) for trunk in trunks])
        trained = each([nn.Sequential(*list(trunk.children())[first:]) for trunk in trunks])
        if len(self.cameras) == 1:
            return frozen, Trainable(trained, self)
        between = Packing(_shapes(frozen, self.seen)) if first else self.seen
        return (
            PackedStages(self.seen, frozen, between) if first else nn.Sequential(),
            Trainable(PackedStages(between, trained), self),
        )

    def fit_standardize(self, train_from: str, features: Tensor, vector: Tensor | None = None) -> None:
        """Fix the scale of what the head reads.

        That of the features only where the whole trunk is frozen: stages that are trained get their scale from batch
        norm, and one that was measured before training would be of another network.

        Args:
            train_from: First layer that is trained.
            features: What the frozen part gave, float32 [N, C, h, w], of several cameras packed.
            vector: The vectors of the same frames, float32 [N, D].
        """
        if train_from == "head":
            parts = by_camera(Packing(_shapes(self.trunk, self.seen)).unpack(features))
            for standardize, part in zip(modules(self.standardize), parts, strict=True):
                standardize.fit(part)
        if isinstance(self.standardize_vector, Standardize):
            assert vector is not None, "this policy reads vectors too"
            self.standardize_vector.fit(vector)

    def deploy(self, precision: str = "fp32") -> Deployed:
        """Return the module that every target exports.

        Args:
            precision: What trunk and head compute in: ``fp32``, ``fp16`` or ``bf16``.
        """
        check_choice("precision", precision, PRECISIONS)
        return Deployed(self, PRECISIONS[precision]).eval()


class Trainable(nn.Module):
    """The part of a policy that is trained; it shares the policy's modules.

    Args:
        stages: The trunk's stages that are trained; of several cameras they take packed features, and give a list.
        policy: Whose they are.

    Shape:
        Features of the frozen part [B, C, h, w] (packed) and vectors [B, D] (or None) to scores [B, A].
    """

    def __init__(self, stages: nn.Module, policy: Policy) -> None:
        super().__init__()
        self.stages, self.standardize, self.head = stages, policy.standardize, policy.head
        self.standardize_vector = policy.standardize_vector

    def hidden(self, features: Tensor, vector: Tensor | None = None) -> Tensor:
        """Return what the readout (or a critic beside it, or the memory before it) reads: [B, F + D]."""
        seen = through(self.standardize, self.stages(features))
        return self.head.hidden(seen, _standardized(self.standardize_vector, vector))

    @property
    def readout(self) -> nn.Module:
        """From [B, F + D], or from the memory, to scores."""
        return self.head.readout

    def forward(self, features: Tensor, vector: Tensor | None = None) -> Tensor:
        """Return scores."""
        scores: Tensor = self.readout(self.hidden(features, vector))
        return scores


class Deployed(nn.Module):
    """Raw observations and states in, the environment's own action out.

    ``forward(*observations, *states)`` gives ``(action, scores, *next_states)``: see ``PolicySpec`` for names, shapes
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

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the action, its scores and the next states."""
        names = [tensor.name for tensor in self.spec.observations]
        observations = dict(zip(names, inputs, strict=False))
        vector = self.policy.vector(observations) if self.policy.vector_names else None
        histories: list[Tensor] = []
        if self.policy.framed:
            observations, histories = self.policy.unstacked(observations)
        frames = [observations[camera.frame.name] for camera in self.policy.cameras]
        action, scores, *after = self.act(frames, vector, *histories, *inputs[len(names) :])
        return action, scores, *after[len(histories) :]

    def act(self, frames: list[Tensor], vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Do so with each camera's image, uint8 [B, H, W, C], the vectors, float32 [B, D] or None, and the states."""
        policy, histories = self.policy, iter(states)
        found, later = policy.look(frames, [next(histories) if c.image.past else None for c in policy.cameras])
        after = [one for camera, one in zip(policy.cameras, later, strict=True) if camera.image.past]
        seen = one_or_all([one.to(self.dtype) for one in found])
        if policy.config.memory_units:
            scores, memory = policy.step(seen, vector, states[-1])
            after.append(memory)
        else:
            scores = policy.scores(seen, vector)
        scores = scores.float()
        return (to_action(scores, self.spec), scores, *after)


def _shapes(trunk: nn.Module, seen: Packing) -> list[Shape]:
    """Return the shapes of the features that a trunk, or some of its stages, gives of each camera."""
    training = [(module, module.training) for module in trunk.modules()]
    like = next(trunk.parameters(), torch.zeros(()))
    with torch.no_grad():
        shown = [torch.zeros(1, *shape, device=like.device, dtype=like.dtype) for shape in seen.shapes]
        found = through(trunk.eval(), one_or_all(shown))
    for module, was in training:
        module.training = was
    return [(one.shape[1], one.shape[2], one.shape[3]) for one in by_camera(found)]


def _pool(config: PolicyConfig, shape: Shape) -> list[nn.Module]:
    """Return the layers that turn the features of a camera, [B, C, h, w], into [B, F]."""
    channels, height, width = shape
    if config.head == "spatial-softmax":
        return [SpatialSoftmax(channels, config.keypoints, (height, width))]
    return [nn.Flatten()] if config.head == "flatten" else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def _pooled_size(config: PolicyConfig, shape: Shape) -> int:
    """Return F."""
    if config.head == "spatial-softmax":
        return 2 * config.keypoints
    return math.prod(shape) if config.head == "flatten" else shape[0]


def _standardized(standardize: nn.Module, vector: Tensor | None) -> Tensor | None:
    """Return vectors in the head's scale, or None where a policy has none (not even an operation in the graph)."""
    if not isinstance(standardize, Standardize):
        return None
    assert vector is not None, "this policy reads vectors too"
    result: Tensor = standardize(vector)
    return result


def count_macs(policy: Exportable) -> tuple[int, int]:
    """Return (executed parameters, multiply-accumulates) of one step, counted by PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    module = policy.deploy()
    inputs = [torch.zeros(1, *t.shape, dtype=getattr(torch, t.dtype)) for t in policy.spec.inputs]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    parameters = sum(math.prod(p.shape) for p in policy.parameters())
    return parameters, counter.get_total_flops() // 2
