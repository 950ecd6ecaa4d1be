"""How a policy is built, as plain values. Importing this does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from xfer.errors import UsageError
from xfer.models.limits import at_least, check_limits
from xfer.spec import ImageConfig

if TYPE_CHECKING:
    from xfer.tasks import Task

HeadKind = Literal["spatial-softmax", "flatten", "average"]
MemoryKind = Literal["none", "gru"]

TASK_IMAGE = ImageConfig(crop=(0, 0, 0, 0))
"""Stands for the task's own ``image``."""


@dataclass(frozen=True)
class PolicyConfig:
    """How the network is built and cut."""

    backbone: str = "resnet18"
    """torchvision network: resnet18, resnet34, resnet50, alexnet or mobilenet_v3_small."""
    tap: str = "layer2"
    """Stage whose output the head reads; later stages are cut off."""
    head: HeadKind = "spatial-softmax"
    """What replaces fc; average is the textbook form: global pooling and one linear layer."""
    keypoints: Annotated[int, at_least(0)] = 64
    """Feature maps whose position a spatial softmax reports."""
    image: Annotated[ImageConfig, tyro.conf.Suppress] = TASK_IMAGE
    """How frames become the network's input. Default: as the task says."""
    hidden: Annotated[
        tuple[int, ...], at_least(1), tyro.conf.arg(help_behavior_hint=lambda text: f"(default: {text or 'none'})")
    ] = ()
    """Sizes of hidden layers between the pooled features and the scores."""
    memory: MemoryKind = "none"
    """gru: a GRU between head and scores keeps a state over an episode. Only imitation trains it."""
    memory_size: Annotated[int, at_least(1)] = 64
    """Units of --memory gru."""
    horizon: Annotated[int, at_least(1)] = 1
    """Actions that one inference plans ahead, a chunk. Only imitation trains more than 1."""
    execute: Annotated[int, at_least(1)] = 1
    """How many of them are acted before the next inference."""

    @property
    def memory_units(self) -> int:
        """Size of the recurrent state, 0 where there is none."""
        return self.memory_size if self.memory == "gru" else 0

    def check(self) -> None:
        """Refuse values that do not fit.

        Raises:
            UsageError: If one is out of its limits, or the head has nothing to report.
        """
        check_limits(self)
        if self.head == "spatial-softmax" and not self.keypoints:
            raise UsageError("--keypoints must be at least 1 with --head spatial-softmax.")
        if self.execute > self.horizon:
            raise UsageError(f"--execute {self.execute} is more than --horizon {self.horizon}: only what is planned.")
        if self.memory_units and self.execute > 1:
            raise UsageError(f"--memory gru goes on at each step, so it needs --execute 1, not {self.execute}.")

    @classmethod
    def for_task(cls, task: Task, algorithm: str = "imitation", **given: Any) -> PolicyConfig:
        """Return the configuration that suits a task: the class's defaults, then the task's, then ``given``.

        Args:
            task: Its ``image`` and ``defaults`` are used.
            algorithm: ``imitation`` or ``ppo``: a task may bring defaults for each.
            **given: Fields that are set.
        """
        brought = {k: v for k, v in task_defaults(task, algorithm).items() if k in cls.__dataclass_fields__}
        return cls(**{"image": task.image, **brought, **given})


def upgrade_policy(data: Any) -> Any:
    """Return a ``PolicyConfig`` of version 0.2.0, as plain values, in today's terms."""
    if isinstance(data, dict) and isinstance(units := data.get("memory"), int):  # it was the units, or 0
        data = {**data, "memory": "gru", "memory_size": units} if units else {**data, "memory": "none"}
    return data


def task_defaults(task: Task, algorithm: str) -> dict[str, Any]:
    """Return the option values that suit a task, for ``imitation`` or ``ppo``.

    In ``Task.defaults`` those for the network hold for both; the others at the top are for imitation, those under
    ``ppo`` for PPO.
    """
    values = {name: value for name, value in task.defaults.items() if name != "ppo"}
    if algorithm == "imitation":
        return values
    network = {*PolicyConfig.__dataclass_fields__, "train_from"}
    return {k: v for k, v in values.items() if k in network} | dict(task.defaults.get("ppo", {}))
