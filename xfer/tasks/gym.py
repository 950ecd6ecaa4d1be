"""``gym:ENV_ID``: any Gymnasium environment that renders, seen through its pictures.

The contract is derived from the environment itself: its picture, its actions, its frame rate. What a good
return is, is unknown: there is no reward scale, and no expert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xfer.errors import UsageError
from xfer.spec import ActionSpec, ImageConfig, TensorSpec
from xfer.tasks import Task

if TYPE_CHECKING:
    import gymnasium

REQUIRES = ("gymnasium",)
WORLDS = ()

INPUT_SIDE = 84
"""The shorter side of a picture is shrunk to about this many pixels."""
USUAL_HZ = 30.0
"""The frame rate where an environment names none (Gymnasium's own default for videos)."""


def make(env_id: str) -> gymnasium.Env:
    """Return the environment as it is, ready to render.

    Raises:
        UsageError: If there is none of this name, it does not render, or what it needs is not installed.
    """
    import gymnasium

    from xfer.wrappers import without_screen

    without_screen()
    try:
        return gymnasium.make(env_id, render_mode="rgb_array")
    except (gymnasium.error.Error, ImportError, ValueError, TypeError) as error:
        raise UsageError(f"gym:{env_id}: {' '.join(str(error).split())}") from error


def action_spec(name: str, space: gymnasium.Space[Any]) -> ActionSpec:
    """Return the contract of a discrete or a bounded continuous action of the task called ``name``.

    Raises:
        UsageError: If it is neither.
    """
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Discrete) and space.start == 0:
        return ActionSpec("discrete", tuple(str(index) for index in range(int(space.n))))
    if isinstance(space, Box) and len(space.shape) == 1 and space.is_bounded() and space.dtype == np.float32:
        low, high = space.low.tolist(), space.high.tolist()
        return ActionSpec("continuous", tuple(f"action{i}" for i in range(len(low))), "", tuple(low), tuple(high))
    raise UsageError(f"{name} takes {space}: a policy gives Discrete or bounded float32 Box [A] actions.")


def image(height: int, width: int) -> ImageConfig:
    """Return the whole picture in gray, shrunk to about 84 pixels; three frames show what moves."""
    shrink = max(1, round(min(height, width) / INPUT_SIDE))
    return ImageConfig((0, height - height % shrink, 0, width - width % shrink), shrink)


def task(world: str) -> Task:
    """Return the task of the environment called ``world``.

    Raises:
        UsageError: If it does not exist, render, or act as a policy can.
    """
    from xfer.wrappers import Rendered, picture

    env = make(world)
    try:
        env.reset(seed=0)
        height, width, _ = picture(env).shape
        action = action_spec(f"gym:{world}", env.action_space)
        rate = float(env.metadata.get("render_fps") or USUAL_HZ)
    finally:
        env.close()
    frame = TensorSpec("frame", "uint8", (height, width, 3), color_order="RGB", value_range=(0, 255))
    return Task(
        name=f"gym:{world}",
        control_hz=rate,
        observations=(frame,),
        action=action,
        reward=None,
        image=image(height, width),
        make=lambda: Rendered(make(world), (frame,)),
    )
