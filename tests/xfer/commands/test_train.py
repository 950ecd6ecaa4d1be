import contextlib
import json
import shutil
import time

import pytest
import torch

from tests import processes, small_task
from xfer.cli import main
from xfer.errors import RunError
from xfer.training.rounds import held
from xfer.training.run_folder import RoundMetrics, RunFolder

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


REINFORCE = [
    *(
        "tests.xfer.training.toys:dial",
        "--weights",
        "none",
        "--tap",
        "stem",
        "--train-from",
        "all",
        "--eval-episodes",
        "2",
    ),
    *("--total-frames", "640", "--rounds", "3", "--environments", "2", "--rollout-steps", "32"),
]


def start(output, *more):
    return begin("tests.small_task:task", *SMALL, "--output", str(output), *more)


def begin(*words):
    return processes.start("train", *words)


def kill(process, moment):
    """End a run, hard, at a moment that has come when ``moment()`` is true."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(Exception):
            if moment():
                break
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert start(path).wait(timeout=240) == 0
    return path


def test_a_finished_run_holds_a_policy_and_its_recorded_observations(uninterrupted):
    folder = RunFolder(uninterrupted)
    assert len(folder.rounds()) == 3
    assert len(folder.result().returns) == 2
    held_out = folder.observations("held-out")
    assert len(held_out) == small_task.FEW["held-out"][1]
    assert held_out.observations["frame"].shape[1:] == small_task.FRAME.shape
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
        kill(start(path), moment)
    assert start(path).wait(timeout=240) == 0
    for name in ("policy.safetensors", "policy.json", "observations/held-out.safetensors.gz"):
        assert (path / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def test_a_start_that_was_killed_at_once_is_begun_again(tmp_path):
    from tests.conftest import imitation_config, make_policy
    from xfer.training.run_config import RunConfig

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
    path = tmp_path / "transferred"
    words = ["--weights", str(uninterrupted), "--seed", "7", "--rounds", "1"]
    assert start(path, *words).wait(timeout=240) == 0
    source, policy = RunFolder(uninterrupted).policy(), RunFolder(path).policy()
    for name, value in source.trunk.state_dict().items():
        assert torch.equal(value, policy.trunk.state_dict()[name]), name
    assert not torch.equal(source.head[1].weight, policy.head[1].weight)


@pytest.mark.usefixtures("few_recordings")
def test_a_run_with_a_memory_goes_on_after_its_last_whole_round_to_the_same_weights(one_thread, tmp_path):
    small = ["--weights", "none", "--tap", "stem", "--train-from", "head", "--rounds", "2", "--frames", "40"]
    slow = ["--steps", "20", "--learning-rate", "1e-5"]  # so that it is not done after the first round
    words = ["train", "tests.xfer.training.toys:cue", *small, *slow, "--memory", "gru"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert main([*words, "--output", str(whole)]) == 0
    shutil.copytree(whole, again)
    for name in ("result.json", "policy.safetensors", "rounds/001-weights.safetensors"):
        (again / name).unlink()
    progress = json.loads((again / "progress.json").read_text())
    (again / "progress.json").write_text(json.dumps({"rounds": progress["rounds"][:1]}))
    assert main([*words, "--output", str(again)]) == 0
    assert (again / "policy.safetensors").read_bytes() == (whole / "policy.safetensors").read_bytes()
    policy = RunFolder(whole).policy()
    assert [state.name for state in policy.spec.states] == ["memory"]
    assert policy.config.memory_units == 64


@pytest.fixture(scope="module")
def reinforced(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "ppo"
    assert begin(*REINFORCE, "--output", str(path)).wait(timeout=240) == 0
    return path


def test_a_task_without_an_expert_is_learned_by_ppo(reinforced):
    folder = RunFolder(reinforced)
    assert folder.config().algorithm == "ppo"
    assert [r.frames for r in folder.rounds()] == [256, 448, 640]
    assert folder.result().frames == 640
    assert set(folder.observations("held-out").observations) == {"frame", "offset"}
    assert [file.name for file in sorted((reinforced / "rounds").glob("*trainer*"))] == ["002-trainer.safetensors"]


def test_learning_by_ppo_is_drawn_for_tensorboard(reinforced):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(reinforced / "tensorboard"))
    board.Reload()
    names = {"episode_return", "episode_length", "approx_kl", "clip_fraction", "entropy", "explained_variance"}
    assert names | {"eval_return", "loss", "frames_per_second", "learning_rate"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("entropy")] == list(range(128, 641, 64))


def test_a_run_of_ppo_that_is_killed_again_and_again_ends_in_the_same_weights(reinforced, tmp_path):
    path = tmp_path / "killed"
    moments = [
        lambda: (path / "rounds" / "000-trainer.safetensors").exists(),
        lambda: len(RunFolder(path).rounds()) >= 2,
        lambda: (path / "observations" / "calibration.safetensors.gz").exists(),
    ]
    for moment in moments:
        kill(begin(*REINFORCE, "--output", str(path)), moment)
    assert begin(*REINFORCE, "--output", str(path), "--vectorize", "sync").wait(timeout=240) == 0
    for name in ("policy.safetensors", "rounds/002-trainer.safetensors", "observations/held-out.safetensors.gz"):
        assert (path / name).read_bytes() == (reinforced / name).read_bytes(), name


@pytest.mark.parametrize(
    ("success", "ends"),
    [((0.5, 0.9), False), ((0.9, 0.95), True), ((0.9, 0.95, 0.5), False), ((0.95,), False), ((None, None), False)],
)
def test_success_counts_where_it_is_held_in_two_rounds(success, ends):
    assert held([RoundMetrics(100, 0.0, 0.0, 1.0, share) for share in success], 0.9) is ends


@pytest.mark.usefixtures("few_recordings")
def test_training_ends_once_success_is_held_and_says_how_much_there_was(one_thread, tmp_path):
    pytest.importorskip("minigrid", reason="needs minigrid: pip install 'xfer-policy[navigation]'")
    command = ["train", "navigation:empty", *SMALL, "--rounds", "4", "--output", str(tmp_path / "run")]
    assert main([*command, "--until-success", "0"]) == 0
    rounds = RunFolder(tmp_path / "run").rounds()
    assert len(rounds) == 2
    assert all(r.success == float(r.eval_return > 0.05) for r in rounds)  # of one episode


def test_a_run_is_not_continued_by_another_algorithm_or_with_other_settings(uninterrupted, reinforced):
    words = ["tests.xfer.training.toys:dial", "--weights", "none", "--output"]
    for changes, message in (
        (["cartpole", *SMALL, "--output", str(reinforced)], "algorithm is ppo there, imitation here"),
        ([*REINFORCE, "--output", str(reinforced), "--gamma", "0.5"], "gamma is 0.99 there, 0.5 here"),
        ([*words, str(uninterrupted)], "algorithm is imitation there, ppo here"),
    ):
        with pytest.raises(RunError, match=message):
            main(["train", *changes, "--debug"])


def test_runs_of_before_there_was_ppo_are_read(uninterrupted, tmp_path):
    description = json.loads((uninterrupted / "config.json").read_text())
    del description["ppo"]
    (tmp_path / "config.json").write_text(json.dumps(description))
    assert RunFolder(tmp_path).config() == RunFolder(uninterrupted).config()
    RunFolder(tmp_path).start(RunFolder(uninterrupted).config())


def test_features_that_would_not_fit_into_memory_are_refused_before_anything_is_collected(tmp_path, capsys):
    words = [*REINFORCE, "--output", str(tmp_path / "run"), "--memory-gib", "0.0001"]
    assert main(["train", *words]) == 2
    assert "Lower --rollout-steps or --environments, choose a later --train-from" in capsys.readouterr().err
