"""CartPole as a small picture: the task that the samples of version 0.2.0 were made with, as a user would write one."""

from typing import Any

import gymnasium
import numpy as np

from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task

HEIGHT, WIDTH, STEPS = 32, 48, 60
FRAME = TensorSpec("frame", "uint8", (HEIGHT, WIDTH, 3), color_order="RGB", value_range=(0, 255))


class Picture(gymnasium.ObservationWrapper):
    """Draw the cart as a bar at the bottom, and the pole as a line of dots."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1", max_episode_steps=STEPS))
        self.observation_space = gymnasium.spaces.Dict({"frame": gymnasium.spaces.Box(0, 255, FRAME.shape, np.uint8)})

    def observation(self, observation: Any) -> dict[str, np.ndarray]:
        position, _, angle, _ = self.unwrapped.state
        frame = np.full(FRAME.shape, 255, np.uint8)
        column = WIDTH / 2 + 8 * position
        frame[HEIGHT - 4 :, slice(*np.clip([int(column) - 4, int(column) + 4], 0, WIDTH))] = 0
        for length in range(HEIGHT - 6):
            row, center = HEIGHT - 5 - length, int(column + 2 * length * np.sin(angle))
            frame[row, slice(*np.clip([center - 1, center + 2], 0, WIDTH))] = (200, 100, 50)
        return {"frame": frame}


def expert(env: gymnasium.Env) -> np.ndarray:
    score = np.clip(np.array([1.0, 1.7, 20.0, 4.0]) @ env.unwrapped.state, -3, 3)
    return np.array([-score, score], np.float32)


def task() -> Task:
    image = ImageConfig(crop=(0, HEIGHT, 0, WIDTH), gray=True, frames=3)
    action, reward = ActionSpec("discrete", ("left", "right")), RewardScale(21.0, float(STEPS))
    return Task("small", 50.0, (FRAME,), action, reward, image, Picture, expert)
