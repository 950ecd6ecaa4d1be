"""A task that trains in a second: CartPole in 32 x 32 pixels, drawn by NumPy; `xfer train tests.small_task:task`."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from xfer import tasks
from xfer.evaluate import CALIBRATION_SEED, HELD_OUT_SEED
from xfer.spec import ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task
from xfer.wrappers import Rendered

SIZE, STEPS = 32, 60
FRAME = TensorSpec("frame", "uint8", (SIZE, SIZE, 3), color_order="RGB", value_range=(0, 255))

FEW = {"calibration": (CALIBRATION_SEED, 32, 16), "held-out": (HELD_OUT_SEED, 100, 25)}
"""In the place of ``xfer.training.rounds.RECORDED``: what a finished run records."""


def draw(env: gymnasium.Env[Any, Any]) -> list[np.ndarray]:
    """The cart below, the pole above it; between two columns, both get their share of the light."""
    state: Any = env.unwrapped
    position, _, angle, _ = state.state
    frame = np.full(FRAME.shape, 255, np.uint8)
    for row in range(SIZE - 4):
        column = SIZE * (0.5 + position / 5) + 1.5 * np.sin(angle) * (SIZE - 4 - row)
        left = int(np.clip(np.floor(column), 0, SIZE - 2))
        share = np.clip(column - left, 0, 1)
        frame[row, left], frame[row, left + 1] = 255 * share, 255 * (1 - share)
    cart = int(np.clip(SIZE * (0.5 + position / 5), 3, SIZE - 3))
    frame[SIZE - 4 :, cart - 3 : cart + 3] = 0
    return [frame]


def make() -> gymnasium.Env[Any, Any]:
    return Rendered(gymnasium.make("CartPole-v1", max_episode_steps=STEPS), (FRAME,), draw)


def task() -> Task:
    image = ImageConfig(crop=(0, SIZE, 0, SIZE), gray=True, frames=3, frame_step=2)
    reward = RewardScale(random_return=20.0, reference_return=float(STEPS))
    return replace(
        tasks.load("cartpole"),
        name="tests.small_task:task",
        observations=(FRAME,),
        reward=reward,
        image=image,
        make=make,
    )
