import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from xfer import tasks
from xfer.errors import UnavailableError, UsageError
from xfer.evaluate import native
from xfer.wrappers import observation_space

NAMES = [name for name in tasks.names() if not name.endswith("...")] + ["gym:Acrobot-v1", "gym:Pendulum-v1"]


def load(name):
    """The task, or a skip that says what to install."""
    try:
        return tasks.load(name)
    except UnavailableError as error:
        pytest.skip(str(error))


def play(task, seed, steps=4):
    """What an environment shows under random actions, and what the expert says."""
    rng = np.random.default_rng(0)
    env = task.make()
    shown, said = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        if task.expert:
            said.append(task.expert(env))
        action = rng.integers(len(task.action.elements))
        if task.action.kind == "continuous":
            action = rng.uniform(task.action.low, task.action.high).astype(np.float32)
        shown.append(env.step(native(env, action))[0])
    spaces = env.observation_space, env.action_space
    env.close()
    return shown, said, spaces


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_what_it_says(name):
    task = load(name)
    assert task.name == name
    shown, said, (sees, acts) = play(task, seed=3)
    assert sees == observation_space(task.observations)
    assert all(sees.contains(observations) for observations in shown)
    if task.action.kind == "discrete":
        assert acts.n == len(task.action.elements)
    else:
        assert acts.dtype == np.float32
        np.testing.assert_array_equal(acts.low, np.float32(task.action.low))
        np.testing.assert_array_equal(acts.high, np.float32(task.action.high))
    for scores in said:
        assert (scores.shape, scores.dtype) == ((len(task.action.elements),), np.float32)
        if task.expert_kind == "probabilities":
            assert scores.sum() == pytest.approx(1)
        if task.expert_kind == "action":
            assert acts.contains(scores)
    assert (task.expert_kind == "action") == (task.expert is not None and task.action.kind == "continuous")
    again = play(task, seed=3)[0]
    for first, second in zip(shown, again, strict=True):
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])
    other = play(task, seed=4)[0]
    if task.name != "navigation:empty":  # which always begins alike
        assert any((a[key] != b[key]).any() for a, b in zip(shown, other, strict=True) for key in a)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_a_policy_and_options_that_exist(name):
    from xfer.models.config import PolicyConfig
    from xfer.training.config import ImitationConfig, PPOConfig
    from xfer.training.train import build_policy

    task = load(name)
    config, how = PolicyConfig.for_task(task), ImitationConfig.for_task(task)
    policy = build_policy(task, config, how)
    assert config.image == task.image
    assert policy.spec.reward == task.reward
    brought = dict(task.defaults)
    assert (
        brought.pop("ppo", {}).items()
        <= vars(PolicyConfig.for_task(task, "ppo")).items() | vars(PPOConfig.for_task(task)).items()
    )
    assert brought.items() <= vars(config).items() | vars(how).items()


def test_names_list_families_with_their_worlds():
    names = tasks.names()
    assert {"cartpole", "driving", "reach", "navigation:crossing-n1", "atari:pong", "gym:..."} <= set(names)
    assert "navigation" not in names


def test_listing_and_loading_tasks_needs_no_simulator():
    program = (
        "import sys; from xfer import tasks; tasks.names(); tasks.load('navigation:empty'); tasks.load('reach');"
        "assert not {'gymnasium', 'torch', 'mujoco', 'minigrid'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cartpol", "Did you mean 'cartpole'"),
        ("navigation", "Did you mean 'navigation:"),
        ("navigation:crossing-n4", "Did you mean 'navigation:crossing-n"),
        ("cartpole:easy", "Did you mean 'cartpole'"),
        ("gym", "Choose from: .*gym:"),
        ("no_such_module:task", "Unknown task 'no_such_module:task'"),
        ("gym:NoSuchGame-v0", "NoSuchGame"),
    ],
)
def test_an_unknown_task_is_refused_with_the_nearest_name(name, message):
    with pytest.raises(UsageError, match=message):
        tasks.load(name)


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.MultiDiscrete([2, 3]),
        gymnasium.spaces.Discrete(3, start=1),
        gymnasium.spaces.Box(-1, 1, (2, 2), np.float32),
    ],
)
def test_actions_that_no_policy_gives_are_refused_by_name(space):
    from xfer.tasks._gymnasium import action_spec

    with pytest.raises(UsageError, match=r"gym:Some-v0 takes .*: a policy gives"):
        action_spec("gym:Some-v0", space)


def test_an_action_is_bounded_in_all_of_its_elements_or_in_none():
    from xfer.tasks._gymnasium import action_spec

    free = action_spec("gym:Some-v0", gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32))
    assert (free.elements, free.low, free.high) == (("action0", "action1"), (), ())
    partly = gymnasium.spaces.Box(np.float32([-1, -np.inf]), np.float32([1, np.inf]), dtype=np.float32)
    with pytest.raises(UsageError, match="gym:Some-v0: ActionSpec: element 'action1' has low -inf and high inf"):
        action_spec("gym:Some-v0", partly)


def test_a_missing_simulator_is_named_with_its_extra(monkeypatch):
    from xfer.tasks import navigation

    monkeypatch.setattr(navigation, "REQUIRES", ("gymnasium", "no_such_simulator"))
    with pytest.raises(UnavailableError, match=r"needs no_such_simulator: pip install 'xfer-policy\[navigation\]'"):
        tasks.load("navigation:empty")


def test_a_users_own_task_is_a_function_of_a_module_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_swing.py").write_text(
        "import dataclasses\nfrom xfer import tasks\n"
        "def swing():\n    return dataclasses.replace(tasks.load('cartpole'), name='anything')\n"
        "def nothing():\n    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    task = tasks.load("my_swing:swing")
    assert task.name == "my_swing:swing"
    assert task.control_hz == 50
    monkeypatch.delenv(tasks.TRUSTED, raising=False)
    with pytest.raises(UnavailableError, match="--task my_swing:swing"):
        tasks.load_recorded("my_swing:swing")
    monkeypatch.setenv(tasks.TRUSTED, "my_swing:other")
    with pytest.raises(UnavailableError, match="--task my_swing:swing"):
        tasks.load_recorded("my_swing:swing")
    tasks.trust("my_swing:swing")
    assert tasks.load_recorded("my_swing:swing").name == "my_swing:swing"
    for name in ("my_swing:nothing", "my_swing:missing"):
        with pytest.raises(UsageError, match=r"returns an xfer\.tasks\.Task"):
            tasks.load(name)


def test_making_cartpole_without_a_screen_says_nothing():
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    program = "from xfer import tasks; tasks.load('cartpole').make().reset(seed=0)"
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("", "")


def test_cartpole_is_seen_as_pixels_and_its_expert_keeps_the_pole_up():
    task = tasks.load("cartpole")
    env = task.make()
    observations, _ = env.reset(seed=3)
    assert observations["frame"].shape == (400, 600, 3)
    assert observations["frame"].dtype == np.uint8
    steps, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = env.env.step(int(task.expert(env).argmax()))  # undrawn
        over, steps = terminated or truncated, steps + 1
    env.close()
    assert steps == 500
