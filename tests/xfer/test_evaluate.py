import math
import re
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from export import Bundle
from tests import chance_task
from xfer import tasks
from xfer.errors import ObservationError, RewardError, TaskError, XferError
from xfer.evaluate import Pair, episode_returns, independent_episodes, paired_episode, record, record_to, same_action
from xfer.models.contract import make_spec
from xfer.runner import Runner, Step
from xfer.spec import PolicySpec
from xfer.trajectories import load_trajectories


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
        return Step(np.array([action or 0]), scores, {name: s + 1 for name, s in states.items()})


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


def chance_spec(task):
    kind = "mean" if task.action.kind == "continuous" else "values"
    return PolicySpec(task.name, 50.0, task.observations, (), task.action, kind, task.reward)


class Sees:
    """A session that acts by the sign of the first joint, and by ``change`` from a step on."""

    def __init__(self, since=999, change=lambda action: 1 - action, continuous=False):
        self.since, self.change, self.continuous, self.t, self.seen = since, change, continuous, -1, []

    def step(self, observations, states):
        self.t += 1
        self.seen.append(observations["joints"][0].copy())
        joints = observations["joints"]
        action = np.tanh(joints) if self.continuous else (joints[:, 0] > 0).astype(np.int64)
        return Step(self.change(action) if self.t >= self.since else action, np.zeros((1, 2), np.float32), states)


def chance_pair(task, variant, reference=None, seed=3, tolerance=0.0):
    spec = chance_spec(task)
    reference = reference or Sees(continuous=task.action.kind == "continuous")
    return paired_episode(task, Runner(reference, spec), {"v": Runner(variant, spec)}, seed, tolerance)["v"]


@pytest.mark.parametrize(
    ("chance", "where"),
    [
        ("start", "another observation 'joints' at step 0"),
        ("observation", "another observation 'joints' at step 12"),
        ("reward", r"reward [\d.]+ and [\d.]+ at step 5"),
        ("end", "terminated (True and False|False and True) at step"),
        ("crash", r"RuntimeError at step \d+ of the second \(no such move here\)"),
    ],
)
def test_an_environment_that_gives_another_episode_for_its_seed_is_found_out_though_no_variant_forks(chance, where):
    task = replace(chance_task.seeded(), make=partial(chance_task.Chance, chance))
    found = []
    for seed in range(8):  # a coin may fall on the same side twice
        np.random.seed(seed)
        try:
            found.append(chance_pair(task, Sees(), seed=seed))
        except TaskError:
            assert chance == "crash"  # at once
    differ = [pair.differs for pair in found if pair.differs]
    assert all(text.startswith("the environment gives another episode for the same seed: ") for text in differ)
    assert [text for text in differ if re.search(where, text)]
    if chance in ("start", "reward"):  # two episodes, not one counted twice
        assert len(differ) == 8
        assert all(pair.fork is None for pair in found)
    if chance == "reward":
        assert all(pair.reference != pair.variant for pair in found)


def test_rewards_that_differ_at_a_fork_are_found_out_though_observations_agree():
    task = replace(chance_task.seeded(), make=partial(chance_task.Chance, "reward"))
    assert re.search(r"same seed: reward [\d.]+ and [\d.]+ at step 5$", chance_pair(task, Sees(since=9)).differs)
    before = chance_pair(task, Sees(since=4))  # nothing was replayed of what is left to chance
    assert (before.differs, before.fork.step) == ("", 4)


def test_a_variant_that_forks_at_once_hides_nothing_from_one_that_never_does():
    task = replace(chance_task.seeded(), make=partial(chance_task.Chance, "reward"))
    spec = chance_spec(task)
    runners = {"other": Runner(Sees(since=0), spec), "same": Runner(Sees(), spec)}
    pairs = paired_episode(task, Runner(Sees(), spec), runners, 3)
    assert all("reward" in pair.differs for pair in pairs.values())
    assert pairs["same"].variant != pairs["same"].reference


def test_an_environment_that_is_a_function_of_its_seed_is_not_accused():
    seen = Sees(since=6)
    pair = chance_pair(chance_task.seeded(), seen)
    assert (pair.differs, pair.reference, pair.variant, pair.fork.step) == ("", 12.0, 6.0, 6)
    np.testing.assert_array_equal(pair.fork.observations["joints"], seen.seen[6])
    assert chance_pair(chance_task.seeded(), Sees()) == Pair(3, 12.0, 12.0, None)


def test_what_no_policy_looks_at_is_not_compared():
    class Clock(chance_task.Chance):
        def reset(self, **options):
            return {**super().reset(**options)[0], "time": np.random.random()}, {}

    assert chance_pair(replace(chance_task.seeded(), make=Clock), Sees(since=6)).differs == ""


def test_observations_that_are_not_numbers_are_equal_to_themselves():
    class NotANumber(chance_task.Chance):
        def step(self, action):
            observations, reward, *rest = super().step(action)
            observations["joints"][1] = np.nan
            return observations, reward, *rest

    pair = chance_pair(replace(chance_task.seeded(), make=NotANumber), Sees(since=6))
    assert (pair.differs, pair.fork.step) == ("", 6)


class Passes(Sees):
    """A session that passes on what it sees as its scores: it cannot cope with what is not a number."""

    def step(self, observations, states):
        return super().step(observations, states)._replace(scores=observations["joints"].copy())


def test_a_variant_that_makes_nothing_of_what_the_reference_acts_on_fails_alone():
    class NotANumber(chance_task.Chance):
        def step(self, action):
            observations, *rest = super().step(action)
            observations["joints"][1] = np.nan
            return observations, *rest

    task = replace(chance_task.seeded(), make=NotANumber)
    spec = chance_spec(task)
    variants = {"passes": Runner(Passes(), spec), "sees": Runner(Sees(), spec)}
    pairs = paired_episode(task, Runner(Sees(), spec), variants, 3)
    assert "at step 1: Observation 'joints' holds nan" in pairs["passes"].error
    assert pairs["sees"] == Pair(3, pairs["sees"].reference, pairs["sees"].reference, None)
    alone = independent_episodes(task, Runner(Sees(), spec), {"passes": Runner(Passes(), spec)}, 3, "why")
    assert "Observation 'joints' holds nan" in alone["passes"].error
    with pytest.raises(ObservationError, match="'joints' holds nan"):
        paired_episode(task, Runner(Passes(), spec), {"sees": Runner(Sees(), spec)}, 3)


class Overflows(chance_task.Chance):
    """Pays NaN for the wrong action."""

    def step(self, action):
        observations, reward, *rest = super().step(action)
        return observations, reward or math.nan, *rest


def test_a_reward_that_is_no_number_fails_a_variant_that_acts_alone_and_is_the_environments_fault_else():
    task = replace(chance_task.seeded(), make=Overflows)
    pair = chance_pair(task, Sees(since=4))
    assert "seed 3, step 4: the reward is nan" in pair.error
    assert (pair.reference, math.isnan(pair.variant), pair.fork.step) == (12.0, True, 4)
    spec = chance_spec(task)
    variants = {"v": Runner(Sees(since=4), spec)}
    assert "the reward is nan" in independent_episodes(task, Runner(Sees(), spec), variants, 3, "why")["v"].error
    with pytest.raises(RewardError, match="seed 3, step 4: the reward is nan"):
        chance_pair(task, Sees(), reference=Sees(since=4))
    with pytest.raises(RewardError):
        independent_episodes(task, Runner(Sees(since=4), spec), {"v": Runner(Sees(), spec)}, 3, "why")


def test_independent_episodes_depend_on_the_seed_alone_where_chance_is_numpys_own():
    task = chance_task.ignores_its_seed()
    spec = chance_spec(task)

    def returns(seed):
        runners = {name: Runner(Sees(), spec) for name in "ab"}
        pairs = independent_episodes(task, Runner(Sees(since=0), spec), runners, seed, "it differs")
        assert pairs["a"] == pairs["b"] == Pair(seed, 0.0, 12.0, None, differs="it differs")
        return [array.tolist() for array in runners["a"].session.seen]

    assert returns(3) == returns(3) != returns(4)


TOLERANCE = np.array([2e-6, 2e-6])


@pytest.mark.parametrize(
    ("change", "forks"),
    [
        (lambda action: np.nextafter(action, 2, dtype=np.float32), False),
        (lambda action: action + np.float32([0, 1.5e-6]), False),
        (lambda action: action + np.float32([0, 5e-6]), True),
    ],
)
def test_a_continuous_variant_forks_by_more_than_rounding_and_the_references_action_is_taken(change, forks):
    class Strict(chance_task.Chance):
        def step(self, action):
            np.testing.assert_array_equal(action, np.tanh(self.joints))
            return super().step(action)

    make = chance_task.pushed().make if forks else partial(Strict, continuous=True)
    task = replace(chance_task.pushed(), make=make)
    pair = chance_pair(task, Sees(3, change, continuous=True), tolerance=TOLERANCE)
    assert (pair.fork is not None) == forks
    if not forks:
        assert pair.variant == pair.reference
        own = chance_task.pushed()
        assert chance_pair(own, Sees(3, change, continuous=True)).fork.step == 3, "by default there is no tolerance"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_no_number_is_equal_to_none(value):
    action = np.float32([value, 0.5])
    assert not same_action(action, action.copy(), TOLERANCE)
    assert not same_action(action, np.float32([0.0, 0.5]), TOLERANCE)
    assert not same_action(np.float32([0.0]), np.float32([0.0, 0.0]), TOLERANCE)
    assert same_action(np.int64(2**40), np.int64(2**40))
    assert not same_action(np.int64(2**40), np.int64(2**40 + 1))


class StatesError(XferError):
    """What a runner may raise besides ScoresError."""


class Refuses(Sees):
    """Its fourth step is its last."""

    def step(self, observations, states):
        if self.t == 3:
            raise StatesError("a state is not finite")
        return super().step(observations, states)


@pytest.mark.parametrize("since", [999, 2])
def test_whatever_a_variants_runner_refuses_is_its_own_failure_with_the_step(since):
    pair = chance_pair(chance_task.seeded(), Refuses(since))
    assert (pair.error, pair.fork is None) == ("at step 4: a state is not finite", since == 999)
    assert math.isnan(pair.variant)
    assert pair.reference == 12.0
    with pytest.raises(StatesError):
        chance_pair(chance_task.seeded(), Sees(), reference=Refuses())
    spec = chance_spec(chance_task.seeded())
    alone = independent_episodes(chance_task.seeded(), Runner(Sees(), spec), {"v": Runner(Refuses(), spec)}, 3, "why")
    assert (alone["v"].error, alone["v"].differs) == ("at step 4: a state is not finite", "why")


def test_an_environment_that_gives_the_wrong_observation_is_no_variants_failure():
    class Wrong(chance_task.Chance):
        def step(self, action):
            _, *rest = super().step(action)
            return {"joints": np.zeros(3 if self.t > 8 else 2, np.float32)}, *rest

    with pytest.raises(TaskError, match=r"observation 'joints' is float32 \[3\]"):
        chance_pair(replace(chance_task.seeded(), make=Wrong), Sees(since=2))


def test_what_is_recorded_of_an_environment_that_draws_into_one_array_is_not_its_last_frame_alone():
    recorded = record(chance_task.seeded(), Runner(Sees(), chance_spec(chance_task.seeded())), 0, 20, 12)
    assert len(np.unique(recorded.observations["joints"], axis=0)) == 20


class Closes(chance_task.Chance):
    """Counts those that are open; can fail, and can end at once."""

    opened = 0

    def __init__(self, fails: bool = False, at_once: bool = False) -> None:
        super().__init__()
        self.fails, self.at_once = fails, at_once
        type(self).opened += 1

    def step(self, action):
        observations, reward, over, *rest = super().step(action)
        if self.fails and self.t > 3:
            raise ValueError("out of battery")
        self.over = over or self.at_once
        return observations, reward, self.over, *rest

    def close(self):
        type(self).opened -= 1


def closing_task(**kinds):
    return replace(chance_task.seeded(), make=partial(Closes, **kinds))


@pytest.mark.parametrize("where", ["memory", "file"])
def test_an_environment_is_closed_whatever_happens(tmp_path, where):
    task = closing_task(fails=True)
    with pytest.raises(TaskError, match="out of battery"):
        acted(task, where, tmp_path / "seen")
    assert Closes.opened == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["memory", "file"])
def test_episodes_that_end_at_once_are_recorded_as_such(tmp_path, where):
    recorded = acted(closing_task(at_once=True), where, tmp_path / "seen")
    assert recorded.resets.tolist() == [True] * 20
    assert len(np.unique(recorded.observations["joints"], axis=0)) == 20
    assert Closes.opened == 0


def test_what_is_recorded_to_a_file_is_what_is_recorded(tmp_path):
    task = chance_task.seeded()
    assert acted(task, "file", tmp_path / "seen").digest() == acted(task, "memory", tmp_path / "seen").digest()


def acted(task, where, path):
    actor = Runner(Sees(), chance_spec(task))
    if where == "memory":
        return record(task, actor, 0, 20, 12)
    record_to(path, task, actor, 0, 20, 12)
    return load_trajectories(path)
