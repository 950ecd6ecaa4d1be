"""``gym:ENV_ID``: any Gymnasium environment that renders, seen through its pictures.

The contract is derived from the environment itself: its picture, its actions, its frame rate. What a good
return is, is unknown: there is no reward scale, and no expert. A module of the user's own may register the environment:
``gym:my_module:ENV_ID``, as Gymnasium itself writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfer.spec import TensorSpec
from xfer.tasks import Task, _gymnasium
from xfer.tasks._gymnasium import action_spec, frame_rate, image, looked_at

if TYPE_CHECKING:
    import gymnasium

REQUIRES = ("gymnasium",)
WORLDS = ()


def make(env_id: str) -> gymnasium.Env:
    """Return the environment as it is, ready to render.

    Raises:
        UsageError: If there is none of this name, it does not render, or what it needs is not installed.
    """
    return _gymnasium.make(f"gym:{env_id}", env_id, render_mode="rgb_array")


def task(world: str) -> Task:
    """Return the task of the environment called ``world``.

    Raises:
        UsageError: If it does not exist, or act as a policy can.
        TaskError: If it does not begin or render, or names no rate.
    """
    from xfer.wrappers import Rendered, attribute, called, picture

    env = make(world)
    with looked_at(f"gym:{world}", env):
        called("reset", env.reset, seed=0)
        height, width, _ = picture(env).shape
        action = action_spec(f"gym:{world}", attribute(env, "action_space"))
        rate = frame_rate(env.metadata)
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
