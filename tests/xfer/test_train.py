import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from xfer.run_folder import RunFolder

SMALL = [
    "--train-from",
    "head",
    "--weights",
    "none",
    "--tap",
    "stem",
    "--rounds",
    "3",
    "--frames",
    "40",
    "--steps",
    "20",
    "--eval-episodes",
    "2",
]


def start(output, *more):
    words = [sys.executable, "-m", "xfer.cli", "train", "cartpole", *SMALL, "--output", str(output), *more]
    return subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert start(path).wait(timeout=240) == 0
    return path


def test_a_finished_run_holds_a_policy_and_what_it_met(uninterrupted):
    folder = RunFolder(uninterrupted)
    assert len(folder.rounds()) == 3
    assert len(folder.result().returns) == 2
    held_out = folder.observations("held-out")
    assert len(held_out) == 1000
    assert held_out.observations["frame"].shape[1:] == (400, 600, 3)
    assert len(held_out.episodes()) >= 4
    assert folder.policy().config.tap == "stem"
    assert list((uninterrupted / "tensorboard").iterdir())


def test_no_pickle_is_written(uninterrupted):
    suffixes = {path.suffix for path in uninterrupted.rglob("*") if path.is_file() and "tfevents" not in path.name}
    suffixes -= {""}  # the lock file
    assert suffixes <= {".json", ".safetensors", ".gz"}


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_weights(uninterrupted, tmp_path):
    path = tmp_path / "killed"
    moments = [
        lambda: (path / "config.json").exists(),
        lambda: (path / "rounds" / "000-frames.safetensors.gz").exists(),
        lambda: len(RunFolder(path).rounds()) >= 2,
        lambda: (path / "observations" / "calibration.safetensors.gz").exists(),
    ]
    for moment in moments:
        process = start(path)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(Exception):
                if moment():
                    break
            time.sleep(0.002)
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(path).wait(timeout=240) == 0
    for name in ("policy.safetensors", "policy.json", "observations/held-out.safetensors.gz"):
        assert (path / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def test_a_start_that_was_killed_at_once_is_begun_again(tmp_path):
    from tests.conftest import imitation_config, make_policy
    from xfer.run_folder import RunConfig

    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.json.k2j3h4").write_text('{"task": "cart')
    config = RunConfig("cartpole", "none", make_policy(tap="stem").config, imitation_config())
    RunFolder(path).start(config)
    (path / "rounds").rmdir()
    RunFolder(path).start(config)
    assert RunFolder(path).config() == config
    assert (path / "rounds").is_dir()


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    from xfer.errors import RunError

    with (
        RunFolder(tmp_path).held(),
        pytest.raises(RunError, match="by another process"),
        RunFolder(tmp_path).held(),
    ):
        pass


def test_running_a_finished_run_again_changes_nothing(uninterrupted):
    before = (uninterrupted / "policy.safetensors").stat().st_mtime_ns
    assert start(uninterrupted).wait(timeout=120) == 0
    assert (uninterrupted / "policy.safetensors").stat().st_mtime_ns == before


def test_weights_come_from_another_run_and_the_trunk_is_equal(uninterrupted, tmp_path):
    import torch

    path = tmp_path / "transferred"
    words = ["--weights", str(uninterrupted), "--seed", "7", "--rounds", "1"]
    assert start(path, *words).wait(timeout=240) == 0
    source, policy = RunFolder(uninterrupted).policy(), RunFolder(path).policy()
    for name, value in source.trunk.state_dict().items():
        assert torch.equal(value, policy.trunk.state_dict()[name]), name
    assert not torch.equal(source.head[1].weight, policy.head[1].weight)
