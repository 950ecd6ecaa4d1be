"""A small trained policy and its bundle, made once: real parts all the way, only small."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# A network this small is no faster with two threads, and much slower where another worker wants the second core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock

from benchmarks.measure import protocol, worker_process
from benchmarks.measure.protocol import Protocol
from export.build import export_policy
from export.bundle.writer import BundleWriter
from export.targets import expand
from export.verification import pairs
from tests import processes, refusals, small_task
from xfer import tasks
from xfer.evaluate import native
from xfer.files import sha256
from xfer.models.checkpoint import load_policy, save_policy
from xfer.models.contract import make_spec
from xfer.models.policy import Policy, PolicyConfig
from xfer.models.torch_session import set_threads
from xfer.tasks import Task
from xfer.training import imitation, rounds, vector_env
from xfer.trajectories import Trajectories

torch.set_num_threads(1)

# In the background of a script pytest inherits an ignored SIGINT, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes for pairs of episodes spend seconds on importing PyTorch. Here they are forked from one that has.
pairs.CONTEXT = processes.PreloadedContext()
vector_env.PRELOADED += processes.PRELOADED
pairs.CONTEXT.set_forkserver_preload(vector_env.PRELOADED)

REQUIRABLE = ("browser", "ssh", "runtime")
"""Parts that are not Python packages. ``XFER_REQUIRED=browser,ssh`` in the environment: a test that wants one fails."""

collect_ignore_glob = ["data/*/make.py"]
"""They made the samples beside them, in environments of their own."""


def skip_without(part: str, reason: str) -> None:
    """Skip a test for want of a browser, of ssh or of what the C++ runtime is built with; fail where it is required.

    Args:
        part: One of ``REQUIRABLE``.
        reason: What is missing and the command that brings it, or empty if all is there.
    """
    assert part in REQUIRABLE
    if reason and part in required():
        pytest.fail(f"{reason} (XFER_REQUIRED asks for {part})")
    elif reason:
        pytest.skip(reason)


def required() -> list[str]:
    return [part for part in os.environ.get("XFER_REQUIRED", "").split(",") if part]


def pytest_configure(config):
    if unknown := set(required()) - set(REQUIRABLE):
        raise pytest.UsageError(f"XFER_REQUIRED names {', '.join(unknown)}. Choose from {', '.join(REQUIRABLE)}.")


@pytest.hookimpl(trylast=True)  # when they have been put in another order
def pytest_collection_modifyitems(config, items):
    """Run what asserts real time last, and not at all beside other workers."""
    timed = [item for item in items if item.get_closest_marker("timing")]
    items[:] = [item for item in items if item not in set(timed)]
    if "PYTEST_XDIST_WORKER" in os.environ:
        config.hook.pytest_deselected(items=timed)
    else:
        items += timed


def pytest_terminal_summary(terminalreporter):
    """Say in one line each what was skipped, and the command that brings it."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section("skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:4}  {reason}")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of that name, which the first worker that asks for it makes, for all of them."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    path, done = root / "shared" / name, root / f"{name}.done"
    path.parent.mkdir(exist_ok=True)
    with FileLock(f"{done}.lock"):
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)
            make(path)
            done.touch()
    return path


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


def make_policy(
    seed: int = 0, tap: str = "layer1", head: str = "flatten", loss: str = "mse", task: Task | None = None
) -> Policy:
    from xfer.training.config import SCORE_KINDS

    torch.manual_seed(seed)
    task = task or tasks.load("cartpole")
    spec = make_spec(task, task.image, SCORE_KINDS[loss])
    return Policy(PolicyConfig("resnet18", tap, head, 8, task.image), spec).eval()


def train_briefly(policy: Policy, task: Task | None = None, **changes) -> imitation.Frames:
    config = imitation_config(**changes)
    frames = imitation.collect(task or tasks.load("cartpole"), policy, config, 0, "cpu", lambda count: None)
    frozen, _ = policy.split(config.train_from)
    features = imitation.compute_features(frozen, frames.seen, "cpu")
    policy.fit_standardize(config.train_from, features)
    for _ in imitation.fit(policy, features, frames.expert, config, 0, "cpu"):
        pass
    return frames


def drive(seed: int, steps: int, task: Task | None = None) -> Trajectories:
    """Frames of episodes that a noisy expert drives."""
    task = task or tasks.load("cartpole")
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


@pytest.fixture(autouse=True, scope="session")
def everything_that_is_made_or_refused():
    """Every command that is refused says why in one line, and every ONNX of every bundle is valid."""
    add = BundleWriter.add
    checked = set()

    def valid(writer, build, folder=None):
        for path in [] if folder is None else folder.rglob("*.onnx"):
            digest = sha256(path)
            if digest not in checked:
                onnx.checker.check_model(onnx.load(path), full_check=True)
                checked.add(digest)
        return add(writer, build, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BundleWriter, "add", valid)
        refusals.watch(patch)
        yield


@pytest.fixture
def few_recordings(monkeypatch):
    """A run that is trained in this process records a hundred observations, not a thousand."""
    monkeypatch.setattr(rounds, "RECORDED", small_task.FEW)


@pytest.fixture
def short_bench(monkeypatch):
    """What is measured by ``--quick`` takes seconds: a few calls, in workers that are forked, not started anew."""

    def quick(threads, rounds=0, cores=()):
        return Protocol(
            threads,
            rounds=5,
            passes=2,
            calls=70,
            seconds=0,
            quick=True,
            warmup_calls=5,
            warmup_seconds=0,
            warmup_limit_seconds=0.1,
            pause_seconds=0.01,
            cores=cores,
        )

    monkeypatch.setattr(protocol, "quick", quick)
    monkeypatch.setattr(worker_process, "Popen", processes.ForkedWorker)


@pytest.fixture
def one_thread():
    """A network this small is no faster with two, and on a machine that does something else much slower."""
    before = torch.get_num_threads()
    set_threads(1)
    yield
    set_threads(before)


@pytest.fixture(scope="session")
def policy(tmp_path_factory) -> Policy:
    def make(folder):
        folder.mkdir()
        policy = make_policy()
        train_briefly(policy)
        save_policy(policy, folder)

    return load_policy(made_once(tmp_path_factory, "policy", make))


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
    variants = expand("eager,torchscript,onnx-fp32,onnx-int8")

    def make(path):
        export_policy(policy, policy.spec, drive(6, 64), golden, variants, path, run="nowhere")

    return made_once(tmp_path_factory, "small.bundle", make)


@pytest.fixture
def bundle_path(shared_bundle, tmp_path) -> Path:
    """A copy of the bundle that the test may change."""
    return Path(shutil.copytree(shared_bundle, tmp_path / "small.bundle"))
