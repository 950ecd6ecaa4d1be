import gymnasium
import numpy as np
import pytest

from xfer import tasks
from xfer.errors import UnavailableError, UsageError
from xfer.tasks.env import observation_specs


def test_an_environment_is_seen_through_its_own_observations():
    task = tasks.load("env:CartPole-v1")
    (vector,) = task.observations
    assert (vector.name, vector.dtype, vector.shape) == ("observation", "float32", (4,))
    assert (task.control_hz, task.action.kind, task.reward) == (50, "discrete", None)
    env = task.make()
    shown, _ = env.reset(seed=3)
    np.testing.assert_array_equal(shown["observation"], gymnasium.make("CartPole-v1").reset(seed=3)[0])
    assert set(env.step(1)[0]) == {"observation"}
    env.close()


def test_dicts_pictures_and_doubles_keep_their_names():
    box = gymnasium.spaces.Box
    space = gymnasium.spaces.Dict(
        {
            "camera": box(0, 255, (40, 60, 3), np.uint8),
            "ram": box(0, 255, (128,), np.uint8),
            "joints": box(-1, 1, (7,), np.float64),
        }
    )
    specs = {spec.name: (spec.dtype, spec.shape, spec.color_order) for spec in observation_specs("env:x", space)}
    assert specs == {
        "camera": ("uint8", (40, 60, 3), "RGB"),
        "ram": ("uint8", (128,), ""),
        "joints": ("float32", (7,), ""),
    }


def test_observations_that_are_no_arrays_are_refused_by_name():
    with pytest.raises(UsageError, match="env:Taxi-v4 gives observation: Discrete"):
        tasks.load("env:Taxi-v4")


def test_a_module_that_a_file_names_is_not_imported_unless_the_user_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    with pytest.raises(UnavailableError, match="--task env:planted:Game-v0"):
        tasks.load_recorded("env:planted:Game-v0")
    with pytest.raises(UsageError, match="imported"):
        tasks.load("env:planted:Game-v0")


def test_a_policy_cannot_be_trained_where_there_is_no_picture_and_it_is_said_where_there_is_one(capsys):
    from xfer.cli import main

    assert main(["train", "env:CartPole-v1", "--weights", "none"]) == 2
    said = capsys.readouterr().err
    assert "env:CartPole-v1 gives observation: float32 [4]. gym:CartPole-v1 looks at its pictures." in said
