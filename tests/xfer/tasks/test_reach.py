import dataclasses

import gymnasium
import numpy as np
import pytest

pytest.importorskip("mujoco", reason="needs mujoco: pip install 'xfer-policy[reach]'")

from xfer import tasks, train
from xfer.errors import UnavailableError, UsageError
from xfer.evaluate import EVALUATION_SEED, episode_returns
from xfer.models.torch_session import runner
from xfer.tasks import reach
from xfer.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def env():
    env = tasks.load("reach").make()
    yield env
    env.close()


def fingertip(angles):
    first, second = reach.LINKS
    bend = angles[0] + angles[1]
    return np.array(
        [first * np.cos(angles[0]) + second * np.cos(bend), first * np.sin(angles[0]) + second * np.sin(bend)]
    )


def test_the_expert_returns_what_the_scale_says(env):
    task, returns = tasks.load("reach"), []
    for seed in range(20):
        env.env.reset(seed=seed)
        over, total = False, 0.0
        while not over:
            _, reward, terminated, truncated, _ = env.env.step(task.expert(env))
            total, over = total + reward, terminated or truncated
        returns.append(total)
    assert np.mean(returns) == pytest.approx(task.reward.reference_return, abs=1)
    assert np.linalg.norm(env.unwrapped.get_body_com("fingertip") - env.unwrapped.get_body_com("target")) < 0.02


def test_inverse_kinematics_puts_the_fingertip_on_the_target():
    rng = np.random.default_rng(0)
    for _ in range(50):
        near = rng.uniform(-3, 3, 2)
        target = fingertip(rng.uniform(-3, 3, 2))
        angles = reach.inverse_kinematics(target, near)
        np.testing.assert_allclose(fingertip(angles), target, atol=1e-9)
        assert abs(angles[0] - near[0]) <= np.pi


def test_the_arms_lengths_are_the_simulators(env):
    env.reset(seed=1)
    angles, _ = reach.joints(env)
    np.testing.assert_allclose(env.unwrapped.get_body_com("fingertip")[:2], fingertip(angles), atol=1e-6)


def test_joints_say_nothing_of_the_target_and_the_picture_does(env):
    shown = []
    for goal in ((0.1, 0.1), (-0.1, 0.05)):
        env.reset(seed=2)
        world = env.unwrapped
        world.set_state(np.array([0.3, -0.2, *goal]), np.zeros(4))
        shown.append(env.observation(None))
    np.testing.assert_array_equal(shown[0]["proprio"], shown[1]["proprio"])
    np.testing.assert_allclose(
        shown[0]["proprio"], [np.cos(0.3), np.cos(-0.2), np.sin(0.3), np.sin(-0.2), 0, 0], atol=1e-6
    )
    assert (shown[0]["frame"] != shown[1]["frame"]).any()


def test_the_whole_reach_is_in_the_picture(env):
    """A red target at the edge of what Reacher draws, 0.2 m from the middle, is seen on each side."""
    env.reset(seed=2)
    for goal in ((0.2, 0), (-0.2, 0), (0, 0.2), (0, -0.2)):
        env.unwrapped.set_state(np.array([0.8, 1.0, *goal]), np.zeros(4))
        frame = env.observation(None)["frame"].astype(int)
        red = (frame[..., 0] > 100) & (frame[..., 1] < 80) & (frame[..., 2] < 80)
        assert red.sum() >= 4, goal


@pytest.fixture(scope="module")
def twice():
    env = tasks.load("reach:two-cameras").make()
    yield env
    env.close()


def test_the_fixed_camera_sees_what_the_only_one_does(env, twice):
    for one in (env, twice):
        one.reset(seed=5)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32):
        alone, both = env.step(action)[0], twice.step(action)[0]
        np.testing.assert_array_equal(both["fixed"], alone["frame"])
        np.testing.assert_array_equal(both["proprio"], alone["proprio"])
        np.testing.assert_array_equal(twice.render(), alone["frame"])  # the renderer is left as it was


def test_the_wrist_camera_follows_the_fingertip_and_turns_with_the_forearm(twice):
    twice.reset(seed=5)
    shown = []
    for angles in ((0.3, -0.2), (2.0, 0.9), (-1.0, -0.8)):
        twice.unwrapped.set_state(np.array([*angles, 0.21, -0.21]), np.zeros(4))
        wrist = twice.observation(None)["wrist"].astype(int)
        green = (wrist[..., 1] > 60) & (wrist[..., 1] > wrist[..., 0] + 30) & (wrist[..., 1] > wrist[..., 2])
        np.testing.assert_allclose(np.argwhere(green).mean(0), (reach.SIDE / 2, reach.SIDE / 2), atol=2)
        blue = (wrist[..., 2] > 50) & (wrist[..., 2] > wrist[..., 0] + 30) & ~green
        rows, columns = np.nonzero(blue[:, : reach.SIDE // 4])  # the forearm comes in from the left
        np.testing.assert_allclose(rows.mean(), reach.SIDE / 2, atol=3)
        assert len(set(columns)) == reach.SIDE // 4
        shown.append(wrist)
    assert (shown[0] != shown[1]).any()


def test_the_wrist_camera_sees_a_target_that_is_near_larger(twice):
    sizes = {}
    for goal in ((0.15, 0.05), (-0.2, 0.0)):
        twice.reset(seed=5)
        twice.unwrapped.set_state(np.array([0.2, 0.2, *goal]), np.zeros(4))
        seen = {name: twice.observation(None)[name].astype(int) for name in ("fixed", "wrist")}
        red = {name: (f[..., 0] > 60) & (f[..., 0] > 3 * f[..., 1:].max(-1)) for name, f in seen.items()}
        sizes[goal] = {name: int(mask.sum()) for name, mask in red.items()}
    assert sizes[0.15, 0.05]["wrist"] > 2 * sizes[0.15, 0.05]["fixed"] > 0
    assert sizes[-0.2, 0.0]["wrist"] == 0 < sizes[-0.2, 0.0]["fixed"]


def test_one_renderer_draws_both_cameras(twice):
    """A second one would be a second OpenGL context, which costs more than the picture."""
    twice.reset(seed=0)
    twice.step(np.zeros(2, np.float32))
    assert len(twice.unwrapped.mujoco_renderer._viewers) == 1


def test_the_policy_of_two_cameras_is_that_of_one_but_for_a_second_eye():
    two, one = tasks.load("reach:two-cameras"), tasks.load("reach")
    assert [o.name for o in two.observations] == ["fixed", "wrist", "proprio"]
    assert (two.action, two.reward, two.defaults, two.name) == (
        one.action,
        one.reward,
        one.defaults,
        "reach:two-cameras",
    )
    with pytest.raises(UsageError, match="Did you mean 'reach:two-cameras'"):
        tasks.load("reach:two-camera")


def test_a_machine_that_cannot_draw_is_told_what_to_install(monkeypatch):
    def broken(*args, **options):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(gymnasium, "make", broken)
    with pytest.raises(UnavailableError, match="apt-get install libegl1"):
        reach.make()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_imitation_with_the_tasks_defaults_reaches_the_target_and_only_by_seeing_it(tmp_path):
    task = tasks.load("reach")
    trained = train("reach", weights="none", device="cpu", output=tmp_path / "run")
    assert len(trained.returns) == 20
    assert normalized(trained.mean) >= 0.8
    policy = RunFolder(tmp_path / "run").policy()
    blind = dataclasses.replace(task, make=lambda: Noise(task.make()))
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + 20)
    assert normalized(np.mean([value for _, value in episode_returns(blind, runner(policy), seeds)])) < 0.3


def normalized(mean_return):
    scale = tasks.load("reach").reward
    return (mean_return - scale.random_return) / scale.span


class Noise(gymnasium.ObservationWrapper):
    """Shows random pixels in the place of the picture, and the joints as they are."""

    def __init__(self, env):
        super().__init__(env)
        self.rng = np.random.default_rng(0)

    def observation(self, observation):
        frame = observation["frame"]
        return {**observation, "frame": self.rng.integers(0, 256, frame.shape, frame.dtype)}
