"""CartPole seen by two cameras, of which one shows the cart and the other the pole: neither is enough alone."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from tests import small_task
from xfer.spec import ImageConfig, TensorSpec
from xfer.tasks import Task
from xfer.wrappers import Rendered

CART = replace(small_task.FRAME, name="cart")
POLE = replace(small_task.FRAME, name="pole")
LOW = replace(POLE, shape=(24, 32, 3))
"""The second camera of another size."""
SIZE, STEPS = small_task.SIZE, small_task.STEPS


def draw_cart(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """A dark cart on a bright floor; between two columns, both get their share of the light."""
    state: Any = env.unwrapped
    return bar(CART.shape, SIZE * (0.5 + state.state[0] / 5))


def draw_pole(env: gymnasium.Env[Any, Any], shape: tuple[int, ...] = POLE.shape) -> np.ndarray:
    """The pole's angle, as a bar that stands the further to the right."""
    state: Any = env.unwrapped
    return bar(shape, SIZE * (0.5 + 2 * state.state[2]))


def bar(shape: tuple[int, ...], column: float) -> np.ndarray:
    frame = np.full(shape, 255, np.uint8)
    left = int(np.clip(np.floor(column), 2, SIZE - 4))
    share = np.clip(column - left, 0, 1)
    frame[4:-4, left - 1 : left + 1] = 0
    frame[4:-4, left - 2], frame[4:-4, left + 1] = 255 * share, 255 * (1 - share)
    return frame


def make(pole: TensorSpec = POLE) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make("CartPole-v1", max_episode_steps=STEPS, render_mode="rgb_array")
    return Rendered(env, (CART, pole), lambda inner: [draw_cart(inner), draw_pole(inner, pole.shape)])


def task() -> Task:
    """Both cameras give pictures of one size."""
    return replace(small_task.task(), name="tests.two_cameras:task", observations=(CART, POLE), make=make)


def unlike() -> Task:
    """The second camera has another size, and is seen in color: without a history."""
    return replace(
        small_task.task(),
        name="tests.two_cameras:unlike",
        observations=(CART, LOW),
        make=lambda: make(LOW),
        images={"pole": ImageConfig((0, 24, 0, 32), shrink=2, gray=False, frames=1)},
        defaults={**small_task.task().defaults, "trunks": "each"},
    )
