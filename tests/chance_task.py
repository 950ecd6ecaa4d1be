"""Environments of twelve steps: one that is a function of seed and actions, and some in which a part is left to chance.

They draw into the same array again and again, and are offended by a step after the end. The bundle of their policy is
made in a moment.
"""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

from export.build import export_policy
from export.bundle.manifest import MANIFEST
from export.bundle.reader import Bundle
from export.bundle.writer import file_facts
from export.importers.module import Deployable
from export.libraries.pytorch import TRACE, save_trace, trace
from export.targets import Variant
from xfer.files import write_atomically
from xfer.spec import ActionSpec, ImageConfig, PolicySpec, RewardScale, TensorSpec
from xfer.tasks import Task
from xfer.trajectories import Trajectories

STEPS = 12
JOINTS = TensorSpec("joints", "float32", (2,))
PUSH = ActionSpec("continuous", ("x", "y"), "N", (-1.0, -1.0), (1.0, 1.0))


class Chance(gymnasium.Env[Any, Any]):
    """The reward of a step is 1 if the action is the sign of the first joint, and falls with a push's size.

    Args:
        chance: What no seed decides, and NumPy's own generator does: ``start``, ``reward``, ``end``, ``crash`` or
            ``observation``, of which the second joint is meant; or empty.
        since: At which step that begins.
        every: Only in episodes of seeds that this divides.
        continuous: Whether actions are.
    """

    def __init__(self, chance: str = "", since: int = 5, every: int = 1, continuous: bool = False) -> None:
        self.chance, self.since, self.every = chance, since, every
        self.observation_space = gymnasium.spaces.Dict({"joints": gymnasium.spaces.Box(-9, 9, (2,), np.float32)})
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,)) if continuous else gymnasium.spaces.Discrete(2)
        self.joints = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        self.rng, self.seed = np.random.default_rng(seed), seed
        self.t, self.over = 0, False
        self.joints[:] = self._draw("start")
        return {"joints": self.joints}, {}

    def step(self, action):
        assert not self.over, "this episode is over"
        if self._by_chance("crash") and np.random.random() < 0.1:
            raise RuntimeError("no such move\nhere")
        right = float(self.joints[0] > 0)
        if np.shape(action) == ():
            reward = float(right == action)
        else:
            reward = 1.0 - float(np.abs(action).mean())
            action[:] = 0  # it is this environment's to write to
        if self._by_chance("reward"):
            reward -= float(np.random.random())
        self.t += 1
        self.joints[:] = self._draw("observation")
        self.over = self.t == STEPS or (self._by_chance("end") and np.random.random() < 0.5)
        return {"joints": self.joints}, reward, self.over, False, {}

    def _by_chance(self, what: str) -> bool:
        asked = self.chance if self.seed % self.every == 0 else ""
        return asked == what and (self.t >= self.since or what == "start")

    def _draw(self, what: str) -> np.ndarray:
        drawn = self.rng.normal(size=2)
        if self._by_chance(what):
            drawn[1 if what == "observation" else 0] = np.random.normal()
        return drawn


def chance_task(name: str, chance: str = "", every: int = 1, continuous: bool = False) -> Task:
    return Task(
        name=f"tests.chance_task:{name}",
        control_hz=50.0,
        observations=(JOINTS,),
        action=PUSH if continuous else ActionSpec("discrete", ("left", "right")),
        reward=RewardScale(0.0, float(STEPS)),
        image=ImageConfig(crop=(0, 1, 0, 1)),
        make=partial(Chance, chance, every=every, continuous=continuous),
    )


def seeded() -> Task:
    return chance_task("seeded")


def ignores_its_seed() -> Task:
    return chance_task("ignores_its_seed", "start")


class Deadly(Chance):
    """Ends the process of who moves away from the first joint's sign."""

    def step(self, action):
        if (self.joints[0] > 0) != action:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def deadly() -> Task:
    return replace(chance_task("deadly"), make=Deadly)


def pays_by_chance() -> Task:
    return chance_task("pays_by_chance", "reward")


def pays_by_chance_at_times() -> Task:
    return chance_task("pays_by_chance_at_times", "reward", every=7)


def pushed() -> Task:
    return chance_task("pushed", continuous=True)


SAME, REFERENCE = "torchscript-fp32", "eager-fp32"


class Sign(nn.Module):
    """The sign of the first joint; where the second is above a limit, the other one."""

    def __init__(self, limit: float = 99.0) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(limit))

    def forward(self, joints):
        joint = joints[:, 0] * torch.sign(self.limit - joints[:, 1])
        scores = torch.stack([-joint, joint], 1)
        return scores.argmax(1), scores


class Push(nn.Module):
    """A push that grows with the joints."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, joints):
        scores = joints * self.gain
        return torch.tanh(scores), scores


def met(episodes: int, steps: int = 4, seed: int = 0) -> Trajectories:
    """Observations of some episodes; no second joint is above 9."""
    joints = np.random.default_rng(seed).normal(size=(episodes * steps, 2)).clip(-9, 9).astype(np.float32)
    return Trajectories({"joints": joints}, np.arange(episodes * steps) % steps == 0)


def small_bundle(path: Path, module: nn.Module | None = None, **changes: Any) -> Bundle:
    """Export a policy, the sign by default, as eager and TorchScript; ``changes`` are of its spec."""
    task = seeded()
    spec = PolicySpec(task.name, 50.0, task.observations, (), task.action, "values", task.reward)
    spec = replace(spec, **changes)
    variants = [Variant.parse(REFERENCE), Variant.parse(SAME)]
    seen = met(4, 16)
    export_policy(Deployable(module or Sign(), spec), spec, seen, seen, variants, path, run="nowhere")
    return Bundle(path)


def exchange(bundle: Bundle, module: nn.Module) -> Bundle:
    """Put another policy where the TorchScript variant is."""
    build = bundle.builds[SAME]
    folder = bundle.path / build.folder
    save_trace(trace(Deployable(module, bundle.spec).deploy(), bundle.spec), folder / TRACE)
    builds = (bundle.builds[REFERENCE], replace(build, files=file_facts(folder)))
    write_atomically(bundle.path / MANIFEST, replace(bundle.manifest, builds=builds).encode())
    return Bundle(bundle.path)
