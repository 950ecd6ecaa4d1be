"""Small environments for policies of Stable-Baselines3: ``env:tests.export.importers.sb3_environments:Dot-v0``."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

SIDE = 36  # SB3's convolutional network sees no less


class Dot(gymnasium.Env):
    """A bright dot on a dark picture; keep it in the middle. It drifts, so one picture alone does not say where to."""

    def __init__(self, dictionary: bool = False, cameras: bool = False) -> None:
        self.dictionary, self.cameras = dictionary, cameras
        picture = Box(0, 255, (SIDE, SIDE, 1), np.uint8)
        joints = Box(-np.inf, np.inf, (4,), np.float64)
        self.observation_space = Dict({"camera": picture, "joints": joints}) if dictionary else picture
        if cameras:  # a gray one, one in color of another size, and a vector between them
            wrist = Box(0, 255, (SIDE + 4, SIDE + 12, 3), np.uint8)
            self.observation_space = Dict({"front": picture, "joints": joints, "wrist": wrist})
        self.action_space = Discrete(3)

    def observe(self):
        picture = np.zeros((SIDE, SIDE, 1), np.uint8)
        row, column = np.clip(self.place, 0, SIDE - 4).astype(int)
        picture[row : row + 4, column : column + 4] = 200
        joints = np.array([*self.place * 10 + 300, *self.drift])
        if self.cameras:
            wrist = np.full((SIDE + 4, SIDE + 12, 3), (30, 90, 160), np.uint8)
            wrist[:, column : column + 8] = 255 - row
            return {"front": picture, "joints": joints, "wrist": wrist}
        return {"camera": picture, "joints": joints} if self.dictionary else picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.drift = self.np_random.uniform(8, 24, 2), self.np_random.uniform(-1.5, 1.5, 2)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        self.place = self.place + self.drift + np.array([0.0, action - 1.0])
        off = np.abs(self.place - SIDE / 2).max()
        return self.observe(), 1.0 - off / SIDE, bool(off > SIDE / 2), self.steps >= 30, {}


KINDS = {"Dot-v0": {}, "DotAndJoints-v0": {"dictionary": True}, "DotAndCameras-v0": {"cameras": True}}
for name, keywords in KINDS.items():
    if name not in gymnasium.registry:  # pytest's search for doctests imports this file a second time
        gymnasium.register(name, Dot, kwargs=keywords)
