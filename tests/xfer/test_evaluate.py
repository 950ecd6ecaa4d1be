import math
import zlib
from dataclasses import replace

import numpy as np
import pytest

from export import Bundle
from xfer import tasks
from xfer.evaluate import episode_returns, paired_episode
from xfer.models.policy import make_spec
from xfer.runner import Runner, Step


@pytest.fixture
def task():
    return tasks.load("cartpole")


class Scripted:
    """A session that plays a list of actions, whatever it sees; None stands for scores that are not finite."""

    def __init__(self, actions):
        self.actions, self.t = actions, 0

    def step(self, observations, states):
        action = self.actions[self.t % len(self.actions)]
        scores = np.zeros((1, 2), np.float32) if action is not None else np.full((1, 2), np.nan, np.float32)
        self.t += 1
        return Step(np.array([action]), scores, {name: s + 1 for name, s in states.items()})


def returns_alone(task, spec, actions, seed):
    return next(value for _, value in episode_returns(task, Runner(Scripted(actions), spec), [seed]))


def test_a_variant_that_never_differs_has_the_references_return(task, policy):
    left_right = [0, 1]
    pairs = paired_episode(
        task,
        Runner(Scripted(left_right), policy.spec),
        {"same": Runner(Scripted(left_right), policy.spec)},
        seed=3,
    )
    assert pairs["same"].fork is None
    assert pairs["same"].reference == pairs["same"].variant == returns_alone(task, policy.spec, left_right, 3)


def test_a_fork_is_the_episode_that_the_variant_would_have_had_alone(task, policy):
    reference, variant = [0, 1] * 500, [0, 1, 0, 1, 0, 1, 1] + [1, 0] * 500
    pairs = paired_episode(
        task, Runner(Scripted(reference), policy.spec), {"v": Runner(Scripted(variant), policy.spec)}, seed=3
    )
    assert pairs["v"].fork.step == 6
    assert pairs["v"].variant == returns_alone(task, policy.spec, variant, 3)
    assert pairs["v"].reference == returns_alone(task, policy.spec, reference, 3)
    assert pairs["v"].variant != pairs["v"].reference


@pytest.mark.parametrize(("script", "forked"), [([0, 1, 0, None], False), ([0, 1, 1, None], True)])
def test_a_variant_whose_scores_are_not_finite_ends_its_own_episode_only(task, policy, script, forked):
    left_right = [0, 1] * 500
    variants = {"broken": Scripted(script), "same": Scripted(left_right)}
    runners = {name: Runner(session, policy.spec) for name, session in variants.items()}
    pairs = paired_episode(task, Runner(Scripted(left_right), policy.spec), runners, seed=3)
    assert "not finite" in pairs["broken"].error
    assert math.isnan(pairs["broken"].variant)
    assert (pairs["broken"].fork is not None) == forked
    assert pairs["same"].error == ""
    assert pairs["same"].variant == pairs["same"].reference == returns_alone(task, policy.spec, left_right, 3)


def test_a_fork_is_right_where_the_environment_is_more_than_drawn():
    """Atari's wrapper repeats actions: replaying past it would be another game."""
    pytest.importorskip("ale_py", reason="needs ale_py: pip install 'xfer-policy[atari]'")
    game = tasks.load("atari:breakout")
    spec = make_spec(game, game.image, "logits")
    reference, variant = [1, 2, 3, 0, 2] * 1000, [1, 2, 3, 0, 2, 1, 2, 2, *[1, 3, 3, 2] * 1000]
    pair = paired_episode(game, Runner(Scripted(reference), spec), {"v": Runner(Scripted(variant), spec)}, seed=3)["v"]
    assert pair.fork.step == 7
    assert pair.variant == returns_alone(game, spec, variant, 3)
    assert pair.reference == returns_alone(game, spec, reference, 3)
    assert pair.variant != pair.reference


def test_a_fork_keeps_what_both_were_shown_at_that_moment(task, policy):
    reference, variant = [0, 1] * 500, [0, 1, 0, 0] + [1, 0] * 500
    pairs = paired_episode(
        task, Runner(Scripted(reference), policy.spec), {"v": Runner(Scripted(variant), policy.spec)}, seed=3
    )
    fork = pairs["v"].fork
    assert (fork.step, int(fork.reference_action), int(fork.variant_action)) == (3, 1, 0)
    env = task.make()
    observations, _ = env.reset(seed=3)
    for action in reference[:3]:
        observations = env.step(action)[0]
    env.close()
    np.testing.assert_array_equal(fork.observations["frame"], observations["frame"])


def test_a_fork_keeps_the_references_scores_of_that_frame(task, shared_bundle):
    bundle = Bundle(shared_bundle)
    with bundle.runner("eager-fp32") as eager:
        other = Runner(Scripted([0, 0, 0, 0, 1] * 200), bundle.spec)
        fork = paired_episode(task, eager, {"v": other}, seed=3)["v"].fork
        eager.reset()
        env = task.make()
        observations, _ = env.reset(seed=3)
        for _ in range(fork.step):
            observations = env.step(int(eager.act(observations).action))[0]
        env.close()
        np.testing.assert_array_equal(fork.scores, eager.act(observations).scores)
    assert int(fork.scores.argmax()) == int(fork.reference_action) != int(fork.variant_action)


def test_a_real_variant_forks_to_the_same_return_as_alone(task, shared_bundle):
    bundle = Bundle(shared_bundle)
    with bundle.runner("eager-fp32") as eager, bundle.runner("onnx-int8") as int8:
        for seed in (1, 2):
            pair = paired_episode(task, eager, {"int8": int8}, seed)["int8"]
            assert pair.variant == next(value for _, value in episode_returns(task, int8, [seed]))


def test_a_batch_of_episodes_gives_each_seed_the_return_it_has_alone(task, shared_bundle):
    bundle = Bundle(shared_bundle)
    seeds = [5, 6, 7, 8, 9]
    with bundle.runner("onnx-fp32") as one, bundle.runner("onnx-fp32", batch=2) as two:
        alone = dict(episode_returns(task, one, seeds))
        together = dict(episode_returns(task, two, seeds))
    assert together == alone
    assert set(alone) == set(seeds)


def test_undrawn_replay_reaches_the_same_frame(task):
    drawn, undrawn = task.make(), task.make()
    drawn.reset(seed=4)
    undrawn.reset(seed=4)
    for action in (0, 1, 1, 0, 1):
        observations = drawn.step(action)[0]
        undrawn.env.step(action)
    np.testing.assert_array_equal(undrawn.observation(None)["frame"], observations["frame"])


def test_the_expert_returns_500_and_random_actions_are_what_the_scale_says(task):
    env = task.make()
    for seed in range(2):
        env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.env.step(int(task.expert(env).argmax()))
            total += reward
            over = terminated or truncated
        assert total == task.reward.reference_return
    rng, returns = np.random.default_rng(0), []
    for seed in range(300):
        env.env.reset(seed=seed)
        length, over = 0, False
        while not over:
            _, _, terminated, truncated, _ = env.env.step(int(rng.integers(2)))
            length, over = length + 1, terminated or truncated
        returns.append(length)
    assert np.mean(returns) == pytest.approx(task.reward.random_return, abs=2.5)
    env.close()


class Habits:
    """A session that does in each frame what it always does there: what it has learned, or else look left and right."""

    def __init__(self, learned):
        self.learned, self.steps = learned, 0

    def step(self, observations, states):
        self.steps += 1
        frames = [frame.tobytes() for frame in observations["frame"]]
        action = np.array([self.learned.get(frame, zlib.crc32(frame) % 2) for frame in frames])
        return Step(action, np.zeros((len(frames), 5), np.float32), states)


def test_an_episode_in_circles_ends_early_with_the_return_that_it_would_have():
    pytest.importorskip("minigrid", reason="needs minigrid: pip install 'xfer-policy[navigation]'")
    task = tasks.load("navigation:crossing-n1")
    env, learned, over = task.make(), {}, False
    observations, _ = env.reset(seed=1)
    while not over:
        frame = observations["frame"].tobytes()
        learned[frame] = int(task.expert(env).argmax())
        observations, _, over, _, _ = env.step(learned[frame])
    env.close()
    spec = make_spec(task, task.image, "logits")
    found = []
    for circles in (True, False):
        session = Habits(learned)
        runner = Runner(session, spec, batch=2)
        found.append((dict(episode_returns(replace(task, circles=circles), runner, range(4))), session.steps))
    (early, few), (whole, many) = found
    assert early == whole
    assert [value > 0 for _, value in sorted(early.items())] == [False, True, False, False]
    assert few < 60 < 600 < many
