"""What an environment does wrong is said in one line that names it, and is not blamed on the policy."""

import json
import os

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from export import Deployable, export
from export.importers import ImportOptions
from tests import small_task
from xfer import tasks
from xfer.cli import main
from xfer.errors import RewardError, TaskError, UsageError
from xfer.spec import ActionSpec, PolicySpec, RewardScale, TensorSpec
from xfer.tasks import _environment as environment
from xfer.tasks._environment import MOST_STEPS, Environment

FRAME = np.zeros((8, 12, 3), np.uint8)
TASK = "env:tests.xfer.tasks.test_environment:Faulty-v0"
FAULTS = {
    "none": {},
    "endless": {"ends_after": -1},
    "reward": {"reward": None},
    "step": {"step_gives": ()},
    "truncated": {"truncated": "no"},
}


class Faulty(gymnasium.Env):
    """Ends after five steps, and gives what its attributes say.

    The faults are class attributes, since Gymnasium makes a new one each time.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space, action_space = Box(-1, 1, (3,), np.float32), Discrete(2)
    reset_gives = None
    step_gives = None
    reward, terminated, truncated = 1.0, False, False
    sees = np.zeros(3, np.float32)
    picture = FRAME
    ends_after = 5

    def __init__(self, render_mode=None):
        self.render_mode, self.steps = render_mode, 0
        if "FAULT" in os.environ:  # which processes that are started inherit
            vars(self).update(FAULTS[os.environ["FAULT"]])
            environment.MOST_STEPS = 20

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return (self.sees, {}) if self.reset_gives is None else self.reset_gives

    def step(self, action):
        self.steps += 1
        ends = self.terminated or self.steps == self.ends_after
        return (self.sees, self.reward, ends, self.truncated, {}) if self.step_gives is None else self.step_gives

    def render(self):
        if isinstance(self.picture, Exception):
            raise self.picture
        return self.picture


gymnasium.register("Faulty-v0", Faulty)


@pytest.fixture
def faulty(monkeypatch):
    """Return a task name, where ``Faulty`` has these attributes."""

    def make(family="env", **attributes):
        for name, value in attributes.items():
            monkeypatch.setattr(Faulty, name, value)
        return f"{family}:Faulty-v0"

    return make


def one_step(name):
    env = Environment(tasks.load(name))
    env.reset(seed=7)
    return env.step(0)


@pytest.mark.parametrize(
    "picture",
    [[FRAME, FRAME], None, FRAME[..., 0], np.zeros((8, 12, 4), np.uint8), FRAME / 255, "x", RuntimeError("no GL")],
    ids=["list", "None", "gray", "RGBA", "floats", "string", "raises"],
)
def test_a_picture_that_is_none_names_render(faulty, picture):
    with pytest.raises(TaskError, match=r"^gym:Faulty-v0: render\(\) ") as said:
        tasks.load(faulty("gym", picture=picture))
    assert "\n" not in str(said.value)


def test_a_picture_that_changes_its_size_names_the_step(faulty, monkeypatch):
    env = Environment(tasks.load(faulty("gym")))
    env.reset(seed=7)
    monkeypatch.setattr(Faulty, "picture", FRAME[:4])
    with pytest.raises(TaskError, match=r"Task gym:Faulty-v0, seed 7, step 0: render\(\).*\[4, 12, 3\]"):
        env.step(0)


@pytest.mark.parametrize(
    "rate",
    [0, -5, float("nan"), float("inf"), "fast", None, [30], 10**400, np.zeros((3, 3))],
    ids=lambda rate: str(rate)[:8],
)
@pytest.mark.parametrize("family", ["gym", "env"])
def test_a_frame_rate_that_is_none_is_named(faulty, family, rate):
    with pytest.raises(TaskError, match=rf'^{family}:Faulty-v0: metadata\["render_fps"\] is ') as said:
        tasks.load(faulty(family, metadata={"render_modes": ["rgb_array"], "render_fps": rate}))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (None, "the reward is None"),
        (np.ones(2), r"the reward is float64 \[2\]"),
        ("good", "the reward is a string"),
        ({}, "the reward is a dict"),
        (float("nan"), "the reward is nan"),
        (np.float32("inf"), "the reward is inf"),
    ],
)
def test_a_reward_that_is_no_number_is_blamed_itself(faulty, reward, said):
    with pytest.raises(TaskError, match=f"Task env:Faulty-v0, seed 7, step 0: {said}"):
        one_step(faulty(reward=reward))


@pytest.mark.parametrize("reward", [1, np.float32(1), np.array([1.0]), True])
def test_a_reward_that_is_one_number_is_taken(faulty, reward):
    assert one_step(faulty(reward=reward))[1] == 1.0


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"reset_gives": np.zeros(3)}, r"seed 7: reset\(\) "),
        ({"step_gives": (np.zeros(3), 0.0, False, {})}, r"seed 7, step 0: step\(\) "),
        ({"terminated": None, "ends_after": 0}, "step 0: terminated is "),
        ({"truncated": "no"}, "step 0: truncated is a string"),
        ({"truncated": np.zeros(2, bool)}, r"step 0: truncated is bool \[2\]"),
        ({"sees": np.zeros(4, np.float32)}, r"seed 7: observation 'observation' is float32 \[4\]"),
        ({"sees": None}, "observation 'observation' is None"),
    ],
)
def test_what_is_not_as_gymnasium_says_names_the_method(faulty, monkeypatch, attributes, said):
    if attributes.get("terminated", 0) is None:
        monkeypatch.setattr(Faulty, "step", lambda self, action: (self.sees, 0.0, None, False, {}))
        attributes = {}
    with pytest.raises(TaskError, match=said):
        one_step(faulty(**attributes))


def test_what_an_environment_raises_names_method_seed_and_step(faulty, monkeypatch):
    name = faulty()

    def step(self, action):
        raise KeyError("motor\n3")

    monkeypatch.setattr(Faulty, "step", step)
    with pytest.raises(TaskError, match=r"Task env:Faulty-v0, seed 7, step 0: step\(\) raised KeyError \('motor"):
        one_step(name)


class SilentError(Exception):
    """An error that cannot even say what it is."""

    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize("family", ["gym", "env"])
def test_an_environment_that_cannot_be_made_is_one_line(faulty, monkeypatch, family):
    name = faulty()

    def leave(self, render_mode=None):
        raise SystemExit(3)

    monkeypatch.setattr(Faulty, "__init__", leave)
    with pytest.raises(UsageError, match=f"^{family}:Faulty-v0: SystemExit: 3"):
        tasks.load(name.replace("env", family))


@pytest.mark.parametrize("family", ["gym", "env"])
def test_a_property_that_raises_is_named(faulty, monkeypatch, family):
    monkeypatch.setattr(Faulty, "action_space", property(lambda self: {}["motors"]))
    with pytest.raises(TaskError, match=f"^{family}:Faulty-v0: action_space.* raised KeyError"):
        tasks.load(faulty(family))


def test_an_error_without_words_is_named_by_its_class(faulty, monkeypatch):
    name = faulty()

    def step(self, action):
        raise SilentError

    monkeypatch.setattr(Faulty, "step", step)
    with pytest.raises(TaskError, match=r"step\(\) raised SilentError\."):
        one_step(name)


def endless(name):
    """Step until something stops it."""
    env = Environment(tasks.load(name))
    env.reset(seed=7)
    for step in range(2000):
        if any(env.step(0)[2:4]):
            return step + 1
    return None


def test_an_endless_episode_names_the_option(faulty, monkeypatch):
    assert MOST_STEPS == 100_000
    monkeypatch.setattr("xfer.tasks._environment.MOST_STEPS", 1000)
    with pytest.raises(TaskError, match=r"has not ended after 1,000 steps.*--max-episode-steps N"):
        endless(faulty(ends_after=-1))


def test_max_episode_steps_truncates_an_endless_episode(faulty):
    with tasks.truncated(30):
        assert endless(faulty(ends_after=-1)) == 30
    with pytest.raises(UsageError, match="--max-episode-steps must be at least 1, not 0"), tasks.truncated(0):
        pass


def test_a_reward_of_nan_has_a_class_of_its_own(faulty):
    """A variant that drove the environment there alone has failed its episode."""
    with pytest.raises(RewardError):
        one_step(faulty(reward=float("nan")))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, observation):
        scores = self.net(observation)
        return scores.argmax(1), scores


def make() -> Deployable:
    seen, action = TensorSpec("observation", "float32", (3,)), ActionSpec("discrete", ("0", "1"))
    torch.manual_seed(0)
    return Deployable(Net(), PolicySpec(TASK, 10.0, (seen,), (), action, "logits", RewardScale(0.0, 5.0)))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A bundle of a policy of ``Faulty``, made while it was sound."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XFER_TASK", "")  # put back afterwards
        export(make(), "eager,torchscript", folder / "sound.bundle", importing=ImportOptions(task=TASK))
    return folder / "sound.bundle"


@pytest.fixture
def fault(request, monkeypatch, tmp_path):
    monkeypatch.setenv("FAULT", request.param)
    monkeypatch.setenv("XFER_TASK", "")
    monkeypatch.setattr(environment, "MOST_STEPS", 20)  # put back afterwards
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.mark.parametrize("fault", [*FAULTS][1:], indirect=True)
@pytest.mark.parametrize("command", ["verify", "run", "export", "train"])
def test_a_command_ends_with_one_line_about_the_environment(fault, capsys, sound, command):
    words = {
        "verify": [sound, "--task", TASK, "--pairs", "1"],
        "run": [sound, "--task", TASK, "--variant", "eager-fp32", "--episodes", "1"],
        "export": ["tests.xfer.tasks.test_environment:make", "--task", TASK, "--targets", "eager"],
        "train": [TASK.replace("env:", "gym:"), "--algorithm", "ppo", "--weights", "none", "--environments", "1"],
    }[command]
    assert main([command, *map(str, words)]) == 1
    assert "Task " in (said := capsys.readouterr().err)
    assert "Faulty-v0, " in said


@pytest.mark.parametrize("fault", ["endless"], indirect=True)
def test_an_endless_environment_is_verified_where_episodes_are_truncated(fault, capsys, sound):
    words = ["verify", str(sound), "--task", TASK, "--max-episode-steps", "5", "--json"]
    assert main([*words, "--pairs", "2"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["variants"]
    from export.bundle import records
    from export.bundle.reader import Bundle

    verdict = records.load(Bundle(sound))["torchscript-fp32"].verification
    assert verdict is not None
    assert (verdict.pairs, verdict.max_episode_steps, verdict.returns[0][1]) == (2, 5, 5.0)


@pytest.mark.parametrize("fault", ["endless"], indirect=True)
def test_episodes_of_a_bundle_are_truncated_as_they_were_when_it_was_exported(fault, capsys):
    exported = ["tests.xfer.tasks.test_environment:make", "--task", TASK, "--targets", "eager,torchscript"]
    assert main(["export", *exported, "--max-episode-steps", "5"]) == 0
    assert main(["export", *exported]) == 0  # it is remembered there too
    where = ["make.bundle", "--task", TASK, "--json"]
    assert main(["verify", *where, "--pairs", "1"]) == 0
    assert main(["run", *where, "--variant", "torchscript-fp32", "--episodes", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["returns"] == [5.0]
    assert main(["run", *where, "--variant", "eager-fp32", "--episodes", "1", "--max-episode-steps", "3"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["returns"] == [3.0]


def test_the_reason_why_there_is_no_environment_is_printed(tmp_path):
    from dataclasses import replace

    from export.verification.availability import no_environment

    spec = replace(make().spec, task="env:Nowhere-v0")
    assert "Nowhere" in (said := no_environment(spec) or "")
    assert "doesn't exist" in said


def test_gym_finds_a_module_of_the_users_folder(tmp_path, monkeypatch):
    (tmp_path / "my_robots_gym.py").write_text(
        "import gymnasium\n"
        "from tests.xfer.tasks.test_environment import Faulty\n"
        "gymnasium.register('Mine-v0', Faulty)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    assert tasks.load("gym:my_robots_gym:Mine-v0").control_hz == 10
    gymnasium.registry.pop("Mine-v0", None)


def test_the_small_task_is_sound():
    env = Environment(small_task.task())
    env.reset(seed=1)
    while not any(env.step(env.action_space.sample())[2:4]):
        pass
    env.close()
