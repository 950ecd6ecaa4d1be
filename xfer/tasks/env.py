"""``env:ENV_ID``: any Gymnasium environment, seen through its own observations (``gym:ENV_ID`` looks at its pictures).

It is where policies act that were trained elsewhere. Their environment may be registered by a module of their own:
``env:my_module:ENV_ID``, as Gymnasium itself writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xfer.errors import UsageError
from xfer.spec import ImageConfig, TensorSpec
from xfer.tasks import Task, _gymnasium
from xfer.tasks._gymnasium import action_spec, frame_rate, image, looked_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    import gymnasium

REQUIRES = ("gymnasium",)
WORLDS = ()

ONLY = "observation"
"""Name of the observation of an environment that does not give a dict."""


def make(env_id: str) -> gymnasium.Env[Any, Any]:
    """Return the environment as it is.

    Raises:
        UsageError: If there is none of this name, or what it needs is not installed.
    """
    return _gymnasium.make(f"env:{env_id}", env_id)


def observation_specs(name: str, space: gymnasium.Space[Any] | None) -> tuple[TensorSpec, ...]:
    """Return what an environment gives: bytes as uint8, all other numbers as float32.

    Raises:
        UsageError: If it gives something else than a Box or a dict of them.
    """
    from gymnasium.spaces import Box, Dict

    spaces: Mapping[str, gymnasium.Space[Any] | None] = space.spaces if isinstance(space, Dict) else {ONLY: space}
    specs = []
    for key, one in spaces.items():
        if not isinstance(one, Box):
            raise UsageError(f"{name} gives {key}: {one}. A policy sees arrays (Box), or a dict of them.")
        if one.dtype != np.uint8:
            specs.append(TensorSpec(key, "float32", one.shape))
        elif len(one.shape) == 3 and one.shape[2] in (1, 3):
            color = "RGB" if one.shape[2] == 3 else "gray"
            specs.append(TensorSpec(key, "uint8", one.shape, color_order=color, value_range=(0, 255)))
        else:
            specs.append(TensorSpec(key, "uint8", one.shape, value_range=(0, 255)))
    return tuple(specs)


def task(world: str) -> Task:
    """Return the task of the environment called ``world``.

    Raises:
        UsageError: If it does not exist, or gives or takes what no policy does.
        TaskError: If it names no rate.
    """
    from xfer.wrappers import Named, attribute

    name = f"env:{world}"
    env = make(world)
    with looked_at(name, env):
        specs = observation_specs(name, attribute(env, "observation_space"))
        action = action_spec(name, attribute(env, "action_space"))
        rate = frame_rate(env.metadata)
    images = {spec.name: image(*spec.shape[:2]) for spec in specs if spec.is_image}
    return Task(
        name=name,
        control_hz=rate,
        observations=specs,
        action=action,
        reward=None,
        image=next(iter(images.values()), ImageConfig((0, 0, 0, 0))),
        make=lambda: Named(make(world), specs, ONLY),
        defaults={"trunks": "each"} if len({one.size for one in images.values()}) > 1 else {},
        images=images if len(images) > 1 else {},
    )
