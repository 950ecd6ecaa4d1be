"""Tasks: one file a family. A file defines ``TASK``; the folder's listing is the list of names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xfer.errors import check_choice
from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec

if TYPE_CHECKING:
    import gymnasium
    import numpy as np


@dataclass(frozen=True)
class Task:
    """A control problem that is seen through an environment's observations.

    Attributes:
        name: Name on the command line.
        control_hz: Rate at which the environment takes actions, in Hz.
        observations: What ``make()``'s environment gives: a dict of arrays with these names.
        action: What it takes.
        reward: Mean return of a random policy and the best one known.
        image: How a frame becomes the network's input, by default.
        make: Builds the environment.
        expert: Scores of each action in the environment's present state, float32 [A], or None if there is no
            expert. The largest score is the expert's action.
    """

    name: str
    control_hz: float
    observations: tuple[TensorSpec, ...]
    action: ActionSpec
    reward: RewardScale
    image: ImageConfig
    make: Callable[[], gymnasium.Env]
    expert: Callable[[gymnasium.Env], np.ndarray] | None = None


def names() -> list[str]:
    """Return the names of all tasks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Task:
    """Return the task called ``name``.

    Raises:
        UsageError: If there is none, with the closest name.
    """
    check_choice("task", name, names())
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task
