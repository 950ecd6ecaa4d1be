"""What a policy sees, keeps and gives: its contract, derived from a task, and actions from scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from xfer.errors import UsageError, check_choice
from xfer.models.cameras import Shape
from xfer.models.config import TASK_IMAGE, PolicyConfig
from xfer.spec import ImageConfig, PolicySpec, ScoreKind, TensorSpec
from xfer.tasks import Task


class Camera(NamedTuple):
    """An image among the observations, and how it becomes a trunk's input."""

    frame: TensorSpec
    image: ImageConfig

    @property
    def kept(self) -> Shape:
        """Shape of the earlier frames that are kept, [past * C, h, w]."""
        return (self.image.past * self.image.channels, *self.image.size)


def _observed(of: PolicySpec | Task) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Return the images and the vectors among the observations of a spec or a task."""
    images = [o for o in of.observations if o.is_image]
    vectors = [o for o in of.observations if o.dtype == "float32" and len(o.shape) == 1]
    if not images or len(images) + len(vectors) != len(of.observations):
        names = ", ".join(f"{o.name}: {o.dtype} {list(o.shape)}" for o in of.observations)
        task = of.name if isinstance(of, Task) else of.task
        hint = f" gym:{task.partition(':')[2]} looks at its pictures." if task.startswith("env:") else ""
        raise UsageError(f"A policy sees uint8 images [H, W, 3] and float32 vectors [D]; {task} gives {names}.{hint}")
    return images, vectors


def cameras_of(config: PolicyConfig, of: PolicySpec | Task) -> tuple[tuple[Camera, ...], list[TensorSpec]]:
    """Return the cameras and the vectors of a spec or a task.

    Raises:
        UsageError: If the configuration does not fit them.
    """
    images, vectors = _observed(of)
    names = [frame.name for frame in images]
    for name, _ in config.images:
        check_choice("camera in PolicyConfig.images", name, names)
    cameras = tuple(Camera(frame, config.image_of(frame.name)) for frame in images)
    for frame, image in cameras:
        if image == TASK_IMAGE:
            raise UsageError(
                f"PolicyConfig.image is not set (camera '{frame.name}'). PolicyConfig.for_task(task) takes the task's."
            )
        if image.frames * image.channels != 3:
            raise UsageError(
                f"Camera '{frame.name}': {image.frames} frames of {image.channels} channels do not fit the backbone's"
                " three input channels: use 3 gray frames or 1 in color."
            )
    sizes = {image.size for _, image in cameras}
    if config.trunks == "shared" and len(sizes) > 1:
        found = ", ".join(f"'{frame.name}' {image.size[0]} x {image.size[1]}" for frame, image in cameras)
        raise UsageError(
            f"Cameras that share a trunk must give it pictures of one size, and these give {found}: use --trunks each,"
            " or other crops."
        )
    return cameras, vectors


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


def states_of(cameras: Sequence[Camera], memory: int) -> tuple[TensorSpec, ...]:
    """Return what a policy keeps from step to step: earlier frames of each camera, then its memory; or neither."""
    states = []
    for camera in cameras:
        if camera.image.past:
            name = "history" if len(cameras) == 1 else f"{camera.frame.name}_history"
            states.append(TensorSpec(name, "float32", camera.kept))
    return (*states, *memory_of(memory))


def memory_of(units: int) -> tuple[TensorSpec, ...]:
    """Return the state of a memory of so many units, or none."""
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
    cameras, _ = cameras_of(config, spec)
    frames = {frame.name: image.past + 1 for frame, image in cameras}
    observations = tuple(replace(o, frames=frames.get(o.name, 1)) for o in spec.observations)
    action = replace(spec.action, horizon=config.horizon, execute=config.execute)
    return replace(spec, observations=observations, states=memory_of(config.memory_units), action=action)


def make_spec(
    task: Task,
    image: ImageConfig,
    score_kind: ScoreKind,
    memory: int = 0,
    images: Mapping[str, ImageConfig] | None = None,
) -> PolicySpec:
    """Derive the contract of a policy for ``task`` that preprocesses with ``image``.

    Args:
        task: The task.
        image: How its frames become the network's input.
        score_kind: What a discrete action is chosen from. A continuous one's scores are always its mean.
        memory: ``PolicyConfig.memory_units``.
        images: What holds in place of ``image`` for some cameras, by name. Default: ``Task.images``.

    Raises:
        UsageError: If the task gives something else than images and vectors.
    """
    found, _ = _observed(task)
    other = task.images if images is None else images
    states = states_of([Camera(frame, other.get(frame.name, image)) for frame in found], memory)
    kind: ScoreKind = score_kind if task.action.kind == "discrete" else "mean"
    return PolicySpec(task.name, task.control_hz, task.observations, states, task.action, kind, task.reward)
