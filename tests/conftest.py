"""A small trained policy and its bundle, made once: real parts all the way, only small."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from export.build import export_policy
from export.targets import expand
from xfer import tasks
from xfer.evaluate import native
from xfer.models.policy import Policy, PolicyConfig, make_spec
from xfer.models.torch_session import set_threads
from xfer.training import imitation
from xfer.trajectories import Trajectories

torch.set_num_threads(2)

# In the background of a script pytest inherits an ignored SIGINT, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def imitation_config(**changes) -> imitation.ImitationConfig:
    defaults = {
        "rounds": 1,
        "frames": 400,
        "environments": 4,
        "expert_noise": 0.3,
        "loss": "mse",
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "batch_size": 64,
        "steps": 80,
        "train_from": "head",
        "amp": "off",
        "compile": False,
        "seed": 0,
    }
    return imitation.ImitationConfig(**{**defaults, **changes})


def make_policy(seed: int = 0, tap: str = "layer1", head: str = "flatten", loss: str = "mse") -> Policy:
    from xfer.training.config import SCORE_KINDS

    torch.manual_seed(seed)
    task = tasks.load("cartpole")
    spec = make_spec(task, task.image, SCORE_KINDS[loss])
    return Policy(PolicyConfig("resnet18", tap, head, 8, task.image), spec).eval()


def train_briefly(policy: Policy, **changes) -> imitation.Frames:
    config = imitation_config(**changes)
    task = tasks.load("cartpole")
    frames = imitation.collect(task, policy, config, 0, "cpu", lambda count: None)
    frozen, _ = policy.split(config.train_from)
    features = imitation.compute_features(frozen, frames.seen, "cpu")
    policy.fit_standardize(config.train_from, features)
    for _ in imitation.fit(policy, features, frames.expert, config, 0, "cpu"):
        pass
    return frames


def drive(seed: int, steps: int) -> Trajectories:
    """Frames of episodes that a noisy expert drives."""
    task = tasks.load("cartpole")
    env, rng = task.make(), np.random.default_rng(seed)
    frames, resets = [], []
    observations, begins = env.reset(seed=seed)[0], True
    while len(frames) < steps:
        frames.append(observations["frame"])
        resets.append(begins)
        action = task.expert(env).argmax() if rng.random() > 0.3 else rng.integers(2)
        observations, _, terminated, truncated, _ = env.step(native(env, action))
        begins = terminated or truncated or len(frames) % 40 == 0
        if begins:
            observations = env.reset()[0]
    env.close()
    return Trajectories({"frame": np.stack(frames)}, np.array(resets))


@pytest.fixture
def one_thread():
    """A network this small is no faster with two, and on a machine that does something else much slower."""
    before = torch.get_num_threads()
    set_threads(1)
    yield
    set_threads(before)


@pytest.fixture(scope="session")
def policy() -> Policy:
    policy = make_policy()
    train_briefly(policy)
    return policy


@pytest.fixture(scope="session")
def met() -> Trajectories:
    """120 observations in three episodes."""
    return drive(seed=5, steps=120)


@pytest.fixture(scope="session")
def golden(met) -> Trajectories:
    return met.take([slice(e.start, e.start + 8) for e in met.episodes()])


@pytest.fixture(scope="session")
def shared_bundle(policy, met, golden, tmp_path_factory) -> Path:
    """A bundle that no test may change: eager, torchscript, onnx-fp32 and onnx-int8."""
    path = tmp_path_factory.mktemp("bundles") / "small.bundle"
    export_policy(
        policy, policy.spec, drive(6, 64), golden, expand("eager,torchscript,onnx-fp32,onnx-int8"), path, run="nowhere"
    )
    return path


@pytest.fixture
def bundle_path(shared_bundle, tmp_path) -> Path:
    """A copy of the bundle that the test may change."""
    return Path(shutil.copytree(shared_bundle, tmp_path / "small.bundle"))
