"""A task with two cameras, a policy that looks at every 16th pixel, and what its export takes in memory."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

from export.importers.module import Deployable
from xfer.spec import ActionSpec, PolicySpec, RewardScale, TensorSpec
from xfer.tasks import Task

EVERY = 16
ACTION = ActionSpec("discrete", ("left", "right"))


def cameras() -> tuple[TensorSpec, ...]:
    """Return two cameras, whose size the environment says: 1280x720 unless XFER_TEST_CAMERA does."""
    width, height = map(int, os.environ.get("XFER_TEST_CAMERA", "1280x720").split("x"))
    return tuple(
        TensorSpec(name, "uint8", (height, width, 3), color_order="RGB", value_range=(0, 255))
        for name in ("arm", "top")
    )


class Cameras(gymnasium.Env[Any, Any]):
    """A bright bar wanders over dark frames, for 50 steps; the reward is for following it."""

    def __init__(self) -> None:
        self.specs = cameras()
        space = {spec.name: gymnasium.spaces.Box(0, 255, spec.shape, np.uint8) for spec in self.specs}
        self.observation_space, self.action_space = gymnasium.spaces.Dict(space), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.rng, self.t, self.at = np.random.default_rng(seed), 0, 0.5
        return self._look(), {}

    def step(self, action):
        self.t, moved = self.t + 1, self.rng.normal() / 5
        self.at = float(np.clip(self.at + moved, 0, 0.9))
        return self._look(), float((moved > 0) == action), self.t == 50, False, {}

    def _look(self) -> dict[str, np.ndarray]:
        frames = {spec.name: np.zeros(spec.shape, np.uint8) for spec in self.specs}
        for frame in frames.values():
            first = int(self.at * frame.shape[1])
            frame[:, first : first + EVERY + 1] = 200
        return frames


def task() -> Task:
    return Task("tests.large_task:task", 20.0, cameras(), ACTION, RewardScale(25.0, 50.0), None, Cameras)


class Looks(nn.Module):
    """Convolutions over few pixels: what an export takes is then what the frames take."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.choose = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(8, 2)

    def forward(self, arm, top):
        seen = [self.see(camera[:, ::EVERY, ::EVERY].permute(0, 3, 1, 2) / 255.0) for camera in (arm, top)]
        scores = self.choose(torch.cat([x.relu().amax((2, 3)) for x in seen], 1))
        return scores.argmax(1), scores


def make() -> Deployable:
    torch.manual_seed(0)
    return Deployable(Looks(), PolicySpec("", 20.0, cameras(), (), ACTION, "logits"))


PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, 2 * (int(sys.argv.pop(1)),))
from xfer.cli import main
status = main()
print("peak:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def limited(folder: Path, *words: str, most: int) -> tuple[int, str, int]:
    """Run a command of xfer in a process of its own.

    Args:
        folder: Where.
        words: The command.
        most: Bytes of data that the process may have.

    Returns:
        Its status, what it printed, and the most memory that it had, in bytes.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(most), *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout, 1024 * int(done.stdout.rpartition("peak:")[2] or 0)
