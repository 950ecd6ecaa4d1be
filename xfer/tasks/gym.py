"""``gym:ENV_ID``: any Gymnasium environment that renders, seen through its pictures.

The contract is derived from the environment itself: its picture, its actions, its frame rate. What a good
return is, is unknown: there is no reward scale, and no expert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfer.errors import UsageError
from xfer.spec import TensorSpec
from xfer.tasks import Task
from xfer.tasks._gymnasium import USUAL_HZ, action_spec, image

if TYPE_CHECKING:
    import gymnasium

REQUIRES = ("gymnasium",)
WORLDS = ()


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
