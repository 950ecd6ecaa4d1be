"""Policy: preprocessing, history, a cut backbone and a head; ``deploy()`` gives what is exported.

frame ─► preprocess ─► newest ─┐
history ───────────────────────┴► three frames ─► trunk ─► pool ─┬► readout ─► scores ─► action
vectors ───────────────────────────────────────► standardize ────┘ ▲
                                                                   with --memory gru a GRU stands here

``--train-from`` cuts the trunk: what lies before it is frozen, the rest is trainable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from xfer.errors import UsageError, check_choice
from xfer.models import backbones
from xfer.models.config import TASK_IMAGE, PolicyConfig
from xfer.models.heads import Head, Memory, SpatialSoftmax, Standardize, make_readout
from xfer.models.preprocess import Preprocess
from xfer.spec import ImageConfig, PolicySpec, ScoreKind, TensorSpec
from xfer.tasks import Task

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

    It sees one image, and any number of vectors, which join where the pooled features are read.

    Args:
        config: How to build it.
        spec: The contract it fulfills; ``make_spec`` derives one from a task.

    Attributes:
        frame_name: Name of the image among the spec's observations.
        vector_names: Names of the vectors, in the spec's order.
        vector_size: Their elements together, D.
        history_shape: Shape of the kept frames of one row, [0, h, w] where there are none.
        framed: Whether the runner keeps earlier frames (``TensorSpec.frames``), and not the policy's states.
        head_size: What the readout reads: pooled features and vectors, F + D, or the memory, M.

    Raises:
        UsageError: If config and spec do not fit each other.
    """

    def __init__(self, config: PolicyConfig, spec: PolicySpec) -> None:
        super().__init__()
        config.check()
        image = config.image
        if image == TASK_IMAGE:
            raise UsageError("PolicyConfig.image is not set. PolicyConfig.for_task(task) takes the task's.")
        if image.frames * image.channels != 3:
            raise UsageError(
                f"{image.frames} frames of {image.channels} channels do not fit the backbone's three input"
                " channels: use 3 gray frames or 1 in color."
            )
        self.framed = any(observation.frames > 1 for observation in spec.observations)
        planned = (spec.action.horizon, spec.action.execute)
        if planned != (config.horizon, config.execute):
            raise UsageError(f"The spec's horizon and execute are {planned}, not those of the policy's configuration.")
        if spec.states != (_memory(config.memory_units) if self.framed else _states(image, config.memory_units)):
            names = ", ".join(f"{state.name} {list(state.shape)}" for state in spec.states)
            raise UsageError(f"The states of the spec ({names or 'none'}) are not those of the policy's configuration.")
        self.config, self.spec = config, spec
        frame, vectors = _observed(spec)
        if frame.frames != (image.past + 1 if self.framed else 1):
            raise UsageError(f"'{frame.name}' has frames {frame.frames}; the policy's configuration {image.past + 1}.")
        self.frame_name, self.vector_names = frame.name, tuple(vector.name for vector in vectors)
        self.vector_size = sum(math.prod(vector.shape) for vector in vectors)
        self.history_shape = (image.past * image.channels, *image.size)
        self.preprocess = Preprocess(frame, image)
        self.trunk = backbones.build(config.backbone, config.tap)
        channels, height, width = self._feature_shape()
        self.standardize = Standardize((channels, 1, 1))
        self.standardize_vector = Standardize((self.vector_size,), MIN_DEVIATION) if self.vector_size else nn.Identity()
        if config.head == "spatial-softmax":
            pool: list[nn.Module] = [SpatialSoftmax(channels, config.keypoints, (height, width))]
            pooled = 2 * config.keypoints
        elif config.head == "flatten":
            pool, pooled = [nn.Flatten()], channels * height * width
        else:
            pool, pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()], channels
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

    def begun(self, frame: Tensor, history: Tensor, begins: Tensor) -> Tensor:
        """Return the history with which episodes begin, in the rows where one does.

        That is zeros, as a state is at first; or copies of the first frame, where the runner keeps frames.

        Args:
            frame: uint8 [B, H, W, 3].
            history: float32 [B, past * C, h, w].
            begins: Which rows, bool [B].
        """
        first = torch.zeros_like(history)
        if self.framed:
            first = self.preprocess(frame).repeat(1, self.config.image.past, 1, 1)
        return torch.where(begins[:, None, None, None], first, history)

    def unstacked(self, observations: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the newest frames, and what ``see`` takes as the history, of frames that the runner has kept.

        Args:
            observations: Tensors by name, the image uint8 [B, past + 1, H, W, 3], the newest last.
        """
        frames = observations[self.frame_name]
        earlier = self.preprocess(frames[:, :-1].flatten(0, 1)).reshape(-1, *self.history_shape)
        return {**observations, self.frame_name: frames[:, -1]}, [earlier]

    def vector(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return the observations' vectors as one, as they came: float32 [B, D], where D may be 0."""
        if not self.vector_names:
            frame = observations[self.frame_name]
            return torch.zeros(len(frame), 0, device=frame.device)
        return torch.cat([observations[name].flatten(1) for name in self.vector_names], dim=1)

    def scores(self, seen: Tensor, vector: Tensor | None = None) -> Tensor:
        """Return scores, float32 [B, A], of the trunk's input [B, 3, h, w] and what ``vector`` gave [B, D]."""
        scores: Tensor = self.head(self.standardize(self.trunk(seen)), _standardized(self.standardize_vector, vector))
        return scores

    def step(self, seen: Tensor, vector: Tensor | None, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores as well as the next memory, float32 [B, M], of a policy with or without one (M is 0)."""
        if not self.config.memory_units:
            return self.scores(seen, vector), memory
        return self.head.step(
            self.standardize(self.trunk(seen)), _standardized(self.standardize_vector, vector), memory
        )

    def split(self, train_from: str) -> tuple[nn.Sequential, Trainable]:
        """Cut the network into its frozen and its trainable part.

        Args:
            train_from: ``head``, ``all``, or the first stage that is trained.

        Returns:
            ``frozen`` and ``trainable``: ``scores(x, v) == trainable(frozen(x), v)``. They share the policy's own
            modules.

        Raises:
            UsageError: If the stage does not exist in this (cut) network.
        """
        stages = list(self.trunk.named_children())
        names = [name for name, _ in stages]
        check_choice("layer for --train-from", train_from, ["all", "head", *names[1:]])
        first = {"all": 0, "head": len(stages)}.get(train_from, -1)
        first = names.index(train_from) if first < 0 else first
        frozen, trainable = ([module for _, module in part] for part in (stages[:first], stages[first:]))
        return nn.Sequential(*frozen), Trainable(nn.Sequential(*trainable), self)

    def fit_standardize(self, train_from: str, features: Tensor, vector: Tensor | None = None) -> None:
        """Fix the scale of what the head reads.

        That of the features only where the whole trunk is frozen: stages that are trained get their scale from batch
        norm, and one that was measured before training would be of another network.

        Args:
            train_from: First layer that is trained.
            features: What the frozen part gave, float32 [N, C, h, w].
            vector: The vectors of the same frames, float32 [N, D].
        """
        if train_from == "head":
            self.standardize.fit(features)
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
        stages: The trunk's stages that are trained.
        policy: Whose they are.

    Shape:
        Features of the frozen part [B, C, h, w] and vectors [B, D] (or None) to scores [B, A].
    """

    def __init__(self, stages: nn.Sequential, policy: Policy) -> None:
        super().__init__()
        self.stages, self.standardize, self.head = stages, policy.standardize, policy.head
        self.standardize_vector = policy.standardize_vector

    def hidden(self, features: Tensor, vector: Tensor | None = None) -> Tensor:
        """Return what the readout (or a critic beside it, or the memory before it) reads: [B, F + D]."""
        return self.head.hidden(self.standardize(self.stages(features)), _standardized(self.standardize_vector, vector))

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
        frame, states = observations[self.policy.frame_name], inputs[len(names) :]
        action, scores, *after = self.act(frame, vector, *histories, *states)
        return action, scores, *after[len(histories) :]

    def act(self, frame: Tensor, vector: Tensor | None, *states: Tensor) -> tuple[Tensor, ...]:
        """Do so with the image, uint8 [B, H, W, 3], the vectors, float32 [B, D] or None, and the states."""
        policy, after = self.policy, list(states)
        if policy.config.image.past:
            seen, after[0] = policy.see(frame, states[0])
        else:
            seen = policy.preprocess(frame)
        if policy.config.memory_units:
            scores, after[-1] = policy.step(seen.to(self.dtype), vector, states[-1])
        else:
            scores = policy.scores(seen.to(self.dtype), vector)
        scores = scores.float()
        return (to_action(scores, self.spec), scores, *after)


def _observed(of: PolicySpec | Task) -> tuple[TensorSpec, list[TensorSpec]]:
    """Return the image and the vectors among the observations of a spec or a task."""
    images = [o for o in of.observations if o.dtype == "uint8" and len(o.shape) == 3]
    vectors = [o for o in of.observations if o.dtype == "float32" and len(o.shape) == 1]
    if len(images) != 1 or len(images) + len(vectors) != len(of.observations):
        names = ", ".join(f"{o.name}: {o.dtype} {list(o.shape)}" for o in of.observations)
        task = of.name if isinstance(of, Task) else of.task
        hint = f" gym:{task.partition(':')[2]} looks at its pictures." if task.startswith("env:") else ""
        raise UsageError(
            f"A policy sees one uint8 image [H, W, 3] and float32 vectors [D]; {task} gives {names}.{hint}"
        )
    return images[0], vectors


def _standardized(standardize: nn.Module, vector: Tensor | None) -> Tensor | None:
    """Return vectors in the head's scale, or None where a policy has none (not even an operation in the graph)."""
    if not isinstance(standardize, Standardize):
        return None
    assert vector is not None, "this policy reads vectors too"
    result: Tensor = standardize(vector)
    return result


def to_action(scores: Tensor, spec: PolicySpec) -> Tensor:
    """Return the action that scores mean, in the environment's units.

    Args:
        scores: float32 [B, A], or [B, H, A] of a chunk. Those of a continuous action are its mean, where [-1, 1] spans
            [low, high]; what lies beyond is clipped. Without bounds they are in the environment's units themselves.
        spec: Says which kind of action it is.

    Returns:
        int64 [B] for a discrete action, float32 [B, A] for a continuous one; [B, H] or [B, H, A] of a chunk.
    """
    if spec.action.kind == "discrete":
        return scores.argmax(dim=-1)
    if not spec.action.low:
        return scores.clone()
    low, high = scores.new_tensor(spec.action.low), scores.new_tensor(spec.action.high)
    return low + (scores.clamp(-1, 1) + 1) / 2 * (high - low)


def from_action(action: Tensor, spec: PolicySpec) -> Tensor:
    """Return the scores [B, A] that mean a continuous action, float32 [B, A]: the inverse of ``to_action``."""
    if not spec.action.low:
        return action
    low, high = action.new_tensor(spec.action.low), action.new_tensor(spec.action.high)
    return (action - low) / (high - low) * 2 - 1


def _states(image: ImageConfig, memory: int) -> tuple[TensorSpec, ...]:
    """Return what a policy keeps from step to step: earlier frames, then its memory; or neither."""
    states = []
    if image.past:
        states.append(TensorSpec("history", "float32", (image.past * image.channels, *image.size)))
    return (*states, *_memory(memory))


def _memory(units: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("memory", "float32", (units,)),) if units else ()


def planning(spec: PolicySpec, config: PolicyConfig) -> PolicySpec:
    """Return the contract of the same policy, if it is to plan ahead: with chunks, and frames in the history's place.

    A state advances at each inference, of which a policy that plans ahead has none at most ticks.

    Args:
        spec: What ``make_spec`` gives.
        config: Says how far it plans, and what it sees.
    """
    if config.horizon == 1:
        return spec
    past = config.image.past
    observations = tuple(replace(o, frames=past + 1) if o.dtype == "uint8" else o for o in spec.observations)
    action = replace(spec.action, horizon=config.horizon, execute=config.execute)
    return replace(spec, observations=observations, states=_memory(config.memory_units), action=action)


def make_spec(task: Task, image: ImageConfig, score_kind: ScoreKind, memory: int = 0) -> PolicySpec:
    """Derive the contract of a policy for ``task`` that preprocesses with ``image``.

    Args:
        task: The task.
        image: How its frames become the network's input.
        score_kind: What a discrete action is chosen from. A continuous one's scores are always its mean.
        memory: ``PolicyConfig.memory_units``.

    Raises:
        UsageError: If the task gives something else than an image and vectors.
    """
    _observed(task)
    states = _states(image, memory)
    kind: ScoreKind = score_kind if task.action.kind == "discrete" else "mean"
    return PolicySpec(task.name, task.control_hz, task.observations, states, task.action, kind, task.reward)


def count_macs(policy: Exportable) -> tuple[int, int]:
    """Return (executed parameters, multiply-accumulates) of one step, counted by PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    module = policy.deploy()
    inputs = [torch.zeros(1, *t.shape, dtype=getattr(torch, t.dtype)) for t in policy.spec.inputs]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    parameters = sum(math.prod(p.shape) for p in policy.parameters())
    return parameters, counter.get_total_flops() // 2
