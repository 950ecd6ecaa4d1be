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
