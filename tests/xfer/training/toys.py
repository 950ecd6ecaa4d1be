"""Tiny tasks for tests of training; `xfer train tests.xfer.training.toys:signs` finds them by name."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task

SIZE = 32
FRAME = TensorSpec("frame", "uint8", (SIZE, SIZE, 3), color_order="RGB", value_range=(0, 255))
LENGTH = 8


class Toy(gymnasium.Env[dict[str, np.ndarray], Any]):
    """An episode of ``LENGTH`` steps that ends by a time limit; what a step shows does not depend on the action."""

    def __init__(self, actions: gymnasium.Space[Any], vector: bool = False) -> None:
        spaces: dict[str, gymnasium.Space[Any]] = {"frame": gymnasium.spaces.Box(0, 255, FRAME.shape, np.uint8)}
        if vector:
            spaces["offset"] = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space, self.action_space = gymnasium.spaces.Dict(spaces), actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.reward(action)
        self.count += 1
        return self.observe(), reward, False, self.count == LENGTH, {}

    def observe(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def reward(self, action: Any) -> float:
        raise NotImplementedError


class Signs(Toy):
    """One half of the picture is bright: go there."""

    def __init__(self) -> None:
        super().__init__(gymnasium.spaces.Discrete(2))

    def observe(self) -> dict[str, np.ndarray]:
        self.right = int(self.np_random.integers(2))
        frame = np.full(FRAME.shape, 40, np.uint8)
        frame[:, SIZE // 2 * self.right : SIZE // 2 * (self.right + 1)] = 200
        return {"frame": frame}

    def reward(self, action: int) -> float:
        return float(action == self.right)


class Cue(Signs):
    """The first picture says where to go; the others are all the same."""

    def observe(self) -> dict[str, np.ndarray]:
        if self.count:
            return {"frame": np.full(FRAME.shape, 40, np.uint8)}
        return super().observe()


class Dial(Toy):
    """Turn both knobs to where a bar is in the picture, the second one to the other side; an offset comes as a number.

    Knobs go from 0 to 4, so that actions in the environment's units are not those of the scores.
    """

    def __init__(self) -> None:
        super().__init__(gymnasium.spaces.Box(0, 4, (2,), np.float32), vector=True)

    def observe(self) -> dict[str, np.ndarray]:
        column = int(self.np_random.integers(2, SIZE - 2))
        offset = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        self.target = 2 + np.array([1, -1]) * (column / SIZE - 0.5) * 2 + float(offset[0])
        frame = np.full(FRAME.shape, 40, np.uint8)
        frame[:, column - 2 : column + 2] = 255
        return {"frame": frame, "offset": offset}

    def reward(self, action: np.ndarray) -> float:
        assert action.dtype == np.float32
        assert ((action >= 0) & (action <= 4)).all()
        return 1 - float(np.abs(action - self.target).mean())


class Script(Toy):
    """Episodes end after three steps, by turns because they terminate and because of a time limit.

    A step's reward is its number, from 1; the picture's brightness says which step of which kind of episode it is.
    """

    def __init__(self) -> None:
        super().__init__(gymnasium.spaces.Discrete(2))
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episode += 1
        return super().reset(seed=seed)

    def observe(self) -> dict[str, np.ndarray]:
        return {"frame": np.full(FRAME.shape, 20 + 50 * self.count + 5 * (self.episode % 2), np.uint8)}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        over = self.count == 3
        return self.observe(), float(self.count), over and self.episode % 2 == 1, over and self.episode % 2 == 0, {}


def _task(name: str, make: type[Toy], frames: int, gray: bool, span: tuple[float, float]) -> Task:
    discrete = isinstance(make().action_space, gymnasium.spaces.Discrete)
    action = ActionSpec("discrete", ("left", "right"))
    if not discrete:
        action = ActionSpec("continuous", ("first", "second"), low=(0.0, 0.0), high=(4.0, 4.0))
    offset = () if discrete else (TensorSpec("offset", "float32", (1,), ("offset",), value_range=(-1, 1)),)
    image = ImageConfig(crop=(0, SIZE, 0, SIZE), gray=gray, frames=frames)
    return Task(f"tests.xfer.training.toys:{name}", 10.0, (FRAME, *offset), action, RewardScale(*span), image, make)


def signs() -> Task:
    return _task("signs", Signs, 1, False, (LENGTH / 2, float(LENGTH)))


def cue() -> Task:
    task = _task("cue", Cue, 1, False, (LENGTH / 2, float(LENGTH)))
    return replace(task, expert=lambda env: np.eye(2, dtype=np.float32)[env.unwrapped.right])


def dial() -> Task:
    return _task("dial", Dial, 1, False, (-LENGTH / 4, 0.9 * LENGTH))


def script() -> Task:
    return _task("script", Script, 3, True, (5.0, 6.0))
