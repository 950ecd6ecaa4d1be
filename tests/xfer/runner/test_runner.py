from dataclasses import replace

import numpy as np
import pytest

from xfer.errors import ObservationError, ScoresError
from xfer.runner import Runner, Step
from xfer.spec import ActionSpec, PolicySpec, TensorSpec

SPEC = PolicySpec(
    "counting",
    10.0,
    (TensorSpec("frame", "uint8", (2, 2, 3)),),
    (TensorSpec("history", "float32", (1,)),),
    ActionSpec("discrete", ("left", "right")),
    "values",
)


class Counting:
    """Counts steps in its state, and scores by it."""

    def step(self, observations, states):
        after = states["history"] + 1
        scores = np.concatenate([after, -after], axis=1)
        return Step(scores.argmax(axis=1), scores, {"history": after})


def frame(batch=None, dtype=np.uint8):
    return {"frame": np.zeros((2, 2, 3) if batch is None else (batch, 2, 2, 3), dtype)}


def test_states_are_kept_between_calls_and_a_reset_starts_from_zeros():
    runner = Runner(Counting(), SPEC)
    assert [runner.act(frame()).scores[0] for _ in range(3)] == [1, 2, 3]
    runner.reset()
    assert runner.act(frame()).scores[0] == 1


def test_a_masked_reset_touches_only_its_rows():
    runner = Runner(Counting(), SPEC, batch=3)
    runner.act(frame(3))
    runner.reset(np.array([False, True, False]))
    assert runner.act(frame(3)).scores[:, 0].tolist() == [2, 1, 2]


def test_a_reset_does_not_write_into_what_the_caller_or_the_session_holds():
    class Remembering(Counting):
        def step(self, observations, states):
            self.last = super().step(observations, states)
            return self.last

    session = Remembering()
    runner = Runner(session, SPEC)
    runner.act(frame())
    runner.reset()
    assert session.last.states["history"][0, 0] == 1


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        ({}, "'frame' is missing"),
        ({"frames": frame()["frame"]}, "'frame' is missing; got"),
        (frame(dtype=np.float32), r"'frame' is float32 \[1, 2, 2, 3\], expected uint8 \[1, 2, 2, 3\]"),
        ({"frame": np.zeros((3, 2, 2), np.uint8)}, r"'frame' is uint8 \[3, 2, 2\], expected uint8"),
        (frame(2), r"\[2, 2, 2, 3\], expected uint8 \[1, 2, 2, 3\]"),
    ],
)
def test_a_wrong_observation_is_refused_by_name_shape_and_dtype(observations, message):
    with pytest.raises(ObservationError, match=message):
        Runner(Counting(), SPEC).act(observations)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_an_error_never_an_action(value):
    class Broken:
        def step(self, observations, states):
            return Step(np.zeros(1, np.int64), np.array([[0.0, value]], np.float32), dict(states))

    with pytest.raises(ScoresError, match="not finite"):
        Runner(Broken(), SPEC).act(frame())


class Gives:
    """Gives what it is told to, and counts in its state."""

    def __init__(self, action, scores=((0.0, 1.0),), state=None):
        self.action, self.scores, self.state = np.asarray(action), np.array(scores, np.float32), state

    def step(self, observations, states):
        after = states["history"] + 1 if self.state is None else np.full((1, 1), self.state, np.float32)
        return Step(self.action, self.scores, {"history": after})


TORQUES = replace(
    SPEC, action=ActionSpec("continuous", ("shoulder", "elbow"), "N m", (-1.0, 0.0), (1.0, 2.0)), score_kind="mean"
)


@pytest.mark.parametrize(
    ("spec", "action", "message"),
    [
        (SPEC, np.array([2]), "The action is 2, not one of 0 to 1"),
        (SPEC, np.array([-1]), "The action is -1, not one of 0 to 1"),
        (SPEC, np.array([[1]]), r"int64 \[1, 1\], expected int64 \[1\]"),
        (SPEC, np.array([1.0], np.float32), r"float32 \[1\], expected int64 \[1\]"),
        (TORQUES, np.float32([[np.nan, 0]]), "The action is not finite"),
        (TORQUES, np.float32([[0, np.inf]]), "The action is not finite"),
        (TORQUES, np.float32([[1.1, 0]]), "The action's 'shoulder' is 1.1, out of its bounds -1 to 1"),
        (TORQUES, np.float32([[0, -0.01]]), "The action's 'elbow' is -0.01, out of its bounds 0 to 2"),
    ],
)
def test_an_action_that_is_none_is_an_error_and_the_states_of_before_are_kept(spec, action, message):
    runner = Runner(Gives(action), spec)
    with pytest.raises(ScoresError, match=message):
        runner.act(frame())
    runner.session = Gives(np.array([1]) if spec is SPEC else np.zeros((1, 2), np.float32))
    runner.act(frame())
    assert runner._states["history"][0, 0] == 1


def test_bounds_allow_for_rounding_and_without_bounds_any_finite_number_is_an_action():
    edge = np.nextafter(np.float32([[1, 2]]), np.float32(9))
    assert Runner(Gives(edge), TORQUES).act(frame()).action.shape == (2,)
    free = replace(TORQUES, action=ActionSpec("continuous", ("shoulder", "elbow")))
    assert Runner(Gives(np.float32([[1e6, -1e6]])), free).act(frame()).action[0] == 1e6
    with pytest.raises(ScoresError, match="not finite"):
        Runner(Gives(np.float32([[1e6, np.nan]])), free).act(frame())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_next_state_that_is_not_finite_does_not_stay_in_the_runner(value):
    runner = Runner(Gives(np.array([1]), state=value), SPEC)
    with pytest.raises(ScoresError, match="next state 'history' is not finite"):
        runner.act(frame())
    assert np.isfinite(runner._states["history"]).all()


def test_a_session_gets_contiguous_arrays_whatever_the_caller_has():
    class Picky(Counting):
        def step(self, observations, states):
            assert observations["frame"].flags.c_contiguous
            return super().step(observations, states)

    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for seen in (image[..., ::-1], image.T.copy().T, np.asfortranarray(image)):
        Runner(Picky(), SPEC).act({"frame": seen})


def test_the_widest_bounds_leave_no_room_for_infinite_actions():
    largest = float(np.finfo(np.float32).max)
    wide = replace(TORQUES, action=ActionSpec("continuous", ("a", "b"), "", (-largest,) * 2, (largest,) * 2))
    with pytest.raises(ScoresError, match="not finite"):
        Runner(Gives(np.float32([[0, np.inf]])), wide).act(frame())
    narrow = replace(TORQUES, action=ActionSpec("continuous", ("a", "b"), "", (1000.0,) * 2, (1000.001,) * 2))
    edge = np.nextafter(np.full((1, 2), 1000.001, np.float32), np.float32(2000))
    assert Runner(Gives(edge), narrow).act(frame()).action.shape == (2,)
