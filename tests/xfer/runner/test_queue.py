"""Action chunks, temporal ensembling and frames, against a plain model of one row at a time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xfer.errors import ObservationError, ScoresError
from xfer.runner import Runner, Step
from xfer.spec import ActionSpec, PolicySpec, TensorSpec

JOINTS = TensorSpec("joints", "float32", (2,))
PLANS = ActionSpec("continuous", ("shoulder", "elbow"), horizon=4, execute=3)
SPEC = PolicySpec("", 50.0, (JOINTS,), (), PLANS, "mean")


def planned(frames, horizon):
    """What the network makes of an observation's last frames [n, 2]: actions [H, 2], each of them another."""
    seen = (frames * 10.0 ** np.arange(len(frames))[:, None]).sum(0)
    return np.stack([seen + 1000 * k for k in range(horizon)]).astype(np.float32)


class Planning:
    """Gives the chunk of ``planned``; ``broken`` says for how many calls it gives NaN instead."""

    def __init__(self, spec):
        self.spec, self.broken, self.calls = spec, 0, 0

    def step(self, observations, states):
        self.calls += 1
        fed = observations["joints"]
        fed = fed if self.spec.observations[0].frames > 1 else fed[:, None]
        chunks = np.stack([planned(row, self.spec.action.horizon) for row in fed])
        chunks = chunks if self.spec.action.horizon > 1 else chunks[:, 0]
        scores = chunks / 2
        if self.broken:
            self.broken -= 1
            scores = np.full_like(scores, np.nan)
        return Step(chunks, scores, {})


class PlainRow:
    """One row, as one would write it down: everything is kept, and the mean is taken anew at each tick."""

    def __init__(self, spec):
        self.spec = spec
        self.reset()

    def reset(self):
        self.frames, self.left, self.plans = [], [], []

    def act(self, joints):
        action, count = self.spec.action, self.spec.observations[0].frames
        self.frames.append(joints)
        seen = np.stack(([self.frames[0]] * count + self.frames)[-count:])
        if action.ensemble is None:
            if not self.left:
                self.left = list(planned(seen, action.horizon))[: action.execute]
            return self.left.pop(0)
        self.plans.append(planned(seen, action.horizon))
        now = len(self.plans) - 1
        for_now = [plan[now - then] for then, plan in enumerate(self.plans) if now - then < action.horizon]
        weights = np.exp(-action.ensemble * np.arange(len(for_now)))
        return (np.array(for_now, float) * weights[:, None]).sum(0) / weights.sum()


@st.composite
def contracts(draw):
    horizon = draw(st.integers(1, 5))
    ensembled = horizon > 1 and draw(st.booleans())
    action = ActionSpec(
        "continuous",
        ("shoulder", "elbow"),
        horizon=horizon,
        execute=1 if ensembled else draw(st.integers(1, horizon)),
        ensemble=draw(st.sampled_from([0.0, 0.01, 1.0, -0.5])) if ensembled else None,
    )
    return replace(SPEC, action=action, observations=(replace(JOINTS, frames=draw(st.integers(1, 3))),))


@settings(max_examples=150, deadline=None)
@given(
    contracts(),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=1, max_size=14),
)
def test_a_batch_acts_as_its_rows_alone_whatever_is_reset_and_whatever_fails(spec, batch, ticks):
    session = Planning(spec)
    runner, rows = Runner(session, spec, batch), [PlainRow(spec) for _ in range(batch)]
    alone = [Runner(Planning(spec), spec) for _ in range(batch)]
    for tick, (reset, fails) in enumerate(ticks):
        mask = np.array([bool(reset >> row & 1) for row in range(batch)])
        runner.reset(mask)
        for row in np.flatnonzero(mask):
            rows[row].reset()
            alone[row].reset()
        joints = np.float32([[tick + 1, 20 * row] for row in range(batch)])
        if fails:
            session.broken, before = 1, session.calls
            try:
                runner.act({"joints": joints + 0.5})
            except ScoresError:
                pass
            else:
                assert session.calls == before, "what is broken must not be acted"
                session.broken = 0
                for row in range(batch):
                    rows[row].act(joints[row] + 0.5)
                    alone[row].act({"joints": joints[row] + 0.5})
            session.broken = 0
        acted = runner.act({"joints": joints})
        assert acted.action.shape == (batch, 2)
        np.testing.assert_allclose(acted.scores, acted.action / 2, rtol=1e-6)
        for row in range(batch):
            np.testing.assert_allclose(acted.action[row], rows[row].act(joints[row]), rtol=1e-6)
            np.testing.assert_array_equal(acted.action[row], alone[row].act({"joints": joints[row]}).action)


def act(runner, value, batch=None):
    joints = np.full((2,) if batch is None else (batch, 2), value, np.float32)
    return runner.act({"joints": joints}).action[..., 0].tolist()


def test_what_was_planned_is_acted_and_then_comes_the_next_inference():
    session = Planning(SPEC)
    runner, inferred = Runner(session, SPEC), []
    acted = []
    for value in range(5):
        acted.append(act(runner, value))
        inferred.append(runner.inferred)
    assert acted == [0, 1000, 2000, 3, 1003]
    assert inferred == [True, False, False, True, False]
    assert session.calls == 2


def test_a_reset_forgets_what_was_planned():
    runner = Runner(Planning(SPEC), SPEC)
    act(runner, 1)
    runner.reset()
    assert act(runner, 5) == 5


def test_a_reset_row_is_planned_anew_and_the_others_keep_their_plans():
    runner = Runner(Planning(SPEC), SPEC, batch=2)
    assert act(runner, 1, 2) == [1, 1]
    runner.reset(np.array([False, True]))
    assert act(runner, 7, 2) == [1001, 7]
    assert act(runner, 8, 2) == [2001, 1007]


def test_frames_begin_with_copies_of_the_first_and_are_kept_at_ticks_without_an_inference():
    spec = replace(SPEC, observations=(replace(JOINTS, frames=3),))
    runner = Runner(Planning(spec), spec)
    acted = [act(runner, value) for value in (1, 2, 3, 4)]
    assert acted == [111, 1111, 2111, 432]  # the newest has the largest weight
    runner.reset()
    assert act(runner, 5) == 555


def test_a_stretch_goes_on_from_the_frames_before_it():
    spec = replace(SPEC, observations=(replace(JOINTS, frames=3),))
    runner = Runner(Planning(spec), spec, batch=2)
    before = np.float32([[[1, 0], [2, 0]]])
    runner.reset(np.array([False, True]), {"joints": before})
    assert act(runner, 3, 2) == [333, 321]


def test_an_inference_beside_the_queue_gives_the_whole_chunk_and_leaves_the_queue_alone():
    runner = Runner(Planning(SPEC), SPEC)
    act(runner, 1)
    made = runner.infer({"joints": np.zeros(2, np.float32)})
    assert made.action.shape == made.scores.shape == (4, 2)
    assert made.action[:, 0].tolist() == [0, 1000, 2000, 3000]
    assert act(runner, 9) == 1001


def test_discrete_actions_are_queued_too():
    spec = replace(SPEC, action=ActionSpec("discrete", ("left", "right"), horizon=3, execute=2), score_kind="values")

    class Alternating:
        def step(self, observations, states):
            scores = np.tile(np.float32([[[0, 1], [1, 0], [0, 1]]]), (len(observations["joints"]), 1, 1))
            return Step(scores.argmax(axis=2), scores, {})

    runner = Runner(Alternating(), spec, batch=2)
    acted = [runner.act({"joints": np.zeros((2, 2), np.float32)}) for _ in range(3)]
    assert [one.action.tolist() for one in acted] == [[1, 1], [0, 0], [1, 1]]
    assert acted[1].scores.tolist() == [[1, 0], [1, 0]]


class Giving:
    def __init__(self, action, scores):
        self.given = Step(np.float32(action), np.float32(scores), {})

    def step(self, observations, states):
        return self.given


GOOD = np.zeros((1, 4, 2))


def changed(place, value):
    chunk = GOOD.copy()
    chunk[place] = value
    return chunk


@pytest.mark.parametrize(
    ("action", "scores", "message"),
    [
        (GOOD[:, 0], GOOD, r"The action is float32 \[1, 2\], expected float32 \[1, 4, 2\]"),
        (GOOD, GOOD[:, 0], r"The scores are float32 \[1, 2\], expected \[1, 4, 2\]"),
        (GOOD, changed((0, 3, 1), np.nan), "scores are not finite: that of 'elbow' is nan in action 3 of its chunk"),
        (changed((0, 3, 0), np.inf), GOOD, "The action is not finite in action 3 of its chunk"),
        (changed((0, 2, 1), 1.5), GOOD, "action's 'elbow' is 1.5 in action 2 of its chunk, out of its bounds -1 to 1"),
    ],
)
def test_a_whole_chunk_is_refused_for_what_is_wrong_at_its_end(action, scores, message):
    spec = replace(SPEC, action=replace(PLANS, low=(-1.0, -1.0), high=(1.0, 1.0), execute=1))
    with pytest.raises(ScoresError, match=message):
        act(Runner(Giving(action, scores), spec), 0)


def test_what_is_wrong_in_a_row_that_takes_no_chunk_does_not_matter():
    runner = Runner(Planning(SPEC), SPEC, batch=2)
    act(runner, 1, 2)
    runner.reset(np.array([True, False]))
    joints = np.float32([[3, 3], [np.nan, np.nan]])
    assert runner.act({"joints": joints}).action[:, 0].tolist() == [3, 1001]
    runner.reset()
    with pytest.raises(ObservationError, match=r"'joints' holds nan \(element \[0\], row 1\)"):
        runner.act({"joints": joints})
