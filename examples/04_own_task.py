"""A task of your own, in this folder: xfer train 04_own_task:task --weights none."""

import gymnasium
import numpy as np

from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task

FRAME = TensorSpec("frame", "uint8", (32, 32, 3), color_order="RGB", value_range=(0, 255))


class Dot(gymnasium.Env):  # a dot on a line, which is to be pushed to the middle and kept there
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.uniform(-1, 1), 0
        return self.look(), {}

    def step(self, action):
        self.x, self.steps = np.clip(self.x + 0.1 * (2 * action - 1), -1, 1), self.steps + 1
        return self.look(), float(abs(self.x) < 0.2), False, self.steps >= 50, {}

    def look(self):  # the policy sees a picture; the expert below sees the state
        frame = np.zeros(FRAME.shape, np.uint8)
        frame[12:20, int(12 + 10 * self.x) : int(20 + 10 * self.x)] = 255
        return {"frame": frame}


def task() -> Task:
    actions, reward = ActionSpec("discrete", ("left", "right")), RewardScale(random_return=9.5, reference_return=47.1)
    image = ImageConfig(crop=(0, 32, 0, 32))
    return Task("dot", 20.0, (FRAME,), actions, reward, image, Dot, lambda env: np.float32([env.x, -env.x]))
