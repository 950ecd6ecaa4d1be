import json
import os
import signal
import time
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

import xfer
from tests import processes
from tests.conftest import imitation_config
from tests.xfer.training import toys
from xfer import cli, tasks
from xfer.commands import record
from xfer.errors import RunError, UsageError
from xfer.models.checkpoint import save_policy
from xfer.models.config import PolicyConfig
from xfer.models.contract import make_spec
from xfer.models.policy import Policy
from xfer.models.torch_session import runner
from xfer.training import minari_writer
from xfer.training.run_config import RunConfig
from xfer.training.run_folder import RunFolder, RunResult

minari = pytest.importorskip("minari", reason="needs minari: pip install 'xfer-policy[demonstrations]'")
SIGNS = "tests.xfer.training.toys:signs"


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def short_cartpole():
    """CartPole, over after 12 steps."""
    task = tasks.load("cartpole")
    return replace(task, make=lambda: gymnasium.wrappers.TimeLimit(task.make(), 12))


def dial():
    """Continuous actions and a vector, with an expert."""

    def expert(env):
        return env.unwrapped.target.clip(0, 4).astype(np.float32)

    return replace(toys.dial(), expert=expert, expert_kind="action")


def written(source, output, episodes=2, **options):
    return record.main(record.Args(source=f"{__name__}:{source}", output=output, episodes=episodes, **options))


def replayed(task, seed, act):
    """What the environment shows when it is driven again."""
    env = task.make()
    observations, _ = env.reset(seed=seed)
    shown, actions, rewards, over = [observations], [], [], False
    while not over:
        actions.append(act(env, observations))
        observations, reward, terminated, truncated, _ = env.step(actions[-1])
        shown.append(observations)
        rewards.append(reward)
        over = terminated or truncated
    env.close()
    return {name: np.stack([o[name] for o in shown]) for name in shown[0]}, np.stack(actions), rewards


def test_an_experts_episodes_are_read_back_as_they_were():
    result = written("short_cartpole", "cartpole/expert-v0", seed=5)
    assert (result["dataset"], result["episodes"], result["frames"]) == ("cartpole/expert-v0", 2, 24)
    dataset = minari.load_dataset("cartpole/expert-v0")
    task = short_cartpole()
    assert [m["seed"] for m in dataset.storage.get_episode_metadata([0, 1])] == [5, 6]
    for seed, episode in zip((5, 6), dataset, strict=True):
        shown, actions, rewards = replayed(task, seed, lambda env, observations: int(task.expert(env).argmax()))
        np.testing.assert_array_equal(episode.observations["frame"], shown["frame"])
        np.testing.assert_array_equal(episode.actions, actions)
        np.testing.assert_array_equal(episode.rewards, rewards)
        assert not episode.terminations.any()
        assert list(np.flatnonzero(episode.truncations)) == [11]


def test_vectors_and_continuous_actions_are_kept():
    written("dial", "toys/dial-v1", episodes=1)
    task = dial()
    shown, actions, _ = replayed(task, 0, lambda env, observations: task.expert(env))
    (episode,) = minari.load_dataset("toys/dial-v1")
    np.testing.assert_array_equal(episode.observations["offset"], shown["offset"])
    np.testing.assert_array_equal(episode.observations["frame"], shown["frame"])
    np.testing.assert_array_equal(episode.actions, actions)
    assert episode.actions.dtype == np.float32


def test_long_episodes_are_written_in_parts_that_make_the_same_dataset(monkeypatch):
    written("dial", "whole-v0")
    monkeypatch.setattr(minari_writer, "PART_BYTES", 3 * toys.SIZE**2 * 3)
    written("dial", "parts-v0")
    whole, parts = minari.load_dataset("whole-v0"), minari.load_dataset("parts-v0")
    assert whole.total_steps == parts.total_steps == 16
    metadata = [list(dataset.storage.get_episode_metadata([0, 1])) for dataset in (whole, parts)]
    assert metadata[0] == metadata[1]
    for one, other in zip(whole, parts, strict=True):
        for name in one.observations:
            np.testing.assert_array_equal(one.observations[name], other.observations[name])
        for name in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_frames_are_compressed(datasets):
    result = written("short_cartpole", "cartpole/expert-v0")
    frames = (datasets / "cartpole/expert-v0/data/main_data.hdf5").stat().st_size
    assert frames < 26 * 400 * 600 * 3 / 50
    assert result["size_bytes"] >= frames


def trained_run(path, finished=True):
    task = tasks.load(SIGNS)
    torch.manual_seed(0)
    policy = Policy(PolicyConfig("resnet18", "stem", "flatten", 8, task.image), make_spec(task, task.image, "values"))
    folder = RunFolder(path)
    folder.start(RunConfig(task.name, "none", policy.config, imitation_config()))
    if finished:
        save_policy(policy, path)
        folder.finish(RunResult(1, 1.0, (1.0,)))
    return policy.eval()


@pytest.fixture
def nothing_trusted(monkeypatch):
    monkeypatch.setenv(tasks.TRUSTED, "")


def test_a_runs_policy_is_recorded(tmp_path, nothing_trusted):
    policy = runner(trained_run(tmp_path / "run"))
    source = str(tmp_path / "run")
    result = record.main(record.Args(source=source, output="signs/policy-v0", episodes=3, seed=9, task=SIGNS))
    dataset = minari.load_dataset("signs/policy-v0")
    assert result["return_mean"] == pytest.approx(np.mean([episode.rewards.sum() for episode in dataset]))
    assert len({action for episode in dataset for action in episode.actions}) == 2
    for seed, episode in enumerate(dataset, start=9):
        policy.reset()
        shown, actions, _ = replayed(toys.signs(), seed, lambda env, observations: int(policy.act(observations).action))
        np.testing.assert_array_equal(episode.observations["frame"], shown["frame"])
        np.testing.assert_array_equal(episode.actions, actions)


def test_an_output_that_is_a_folder_is_one(tmp_path):
    result = written("dial", str(tmp_path / "some" / "where"), episodes=1)
    assert result["dataset"] == "where-v0"
    assert minari.MinariDataset(tmp_path / "some" / "where" / "data").total_steps == 8


def test_what_exists_is_not_overwritten(tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match="here exists already"):
        written("dial", str(tmp_path / "here"))


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written to"):
        written("dial", str(tmp_path / "file" / "set"))


def test_a_task_without_an_expert_asks_for_a_run():
    with pytest.raises(UsageError, match=r"has no expert\. Give the folder of a run"):
        record.main(record.Args(source=SIGNS, output="signs-v0"))


def test_the_function_takes_a_task_and_gives_what_it_wrote(tmp_path):
    seen = []
    recorded = xfer.record(task := dial(), str(tmp_path / "set"), episodes=2, tick=lambda *now: seen.append(now[0]))
    assert recorded.frames == seen[-1] == minari.MinariDataset(tmp_path / "set" / "data").total_steps
    assert len(recorded.returns) == 2
    assert recorded.actor == f"the expert of {task.name}"


@pytest.mark.parametrize(
    ("words", "message"), [(["--episodes", "0"], "--episodes must be at least 1"), (["--seed", "-1"], "--seed must be")]
)
def test_numbers_out_of_range_are_refused_in_one_line(words, message, tmp_path, capsys):
    assert cli.main(["record", "cartpole", "--output", str(tmp_path / "set"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_an_unfinished_run_is_refused(tmp_path, nothing_trusted):
    trained_run(tmp_path / "run", finished=False)
    with pytest.raises(RunError, match="not finished"):
        record.main(record.Args(source=str(tmp_path / "run"), output="signs-v0", task=SIGNS))


def command(*words):
    return processes.start("record", *words)


def test_the_command_prints_one_json_object_last():
    process = command("tests.xfer.commands.test_record:dial", "--output", "toys/dial-v0", "--episodes", "1", "--json")
    assert process.wait(120) == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1])["frames"] == 8


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_recording_leaves_nothing(datasets, how):
    process = command("cartpole", "--output", "cartpole/expert-v0", "--episodes", "1000")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(datasets.glob(".*/data/main_data.hdf5")):
        time.sleep(0.01)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, how)
    assert process.wait(120) == 130
    assert "nothing was left half-written" in process.stderr
    assert list(datasets.iterdir()) == []
