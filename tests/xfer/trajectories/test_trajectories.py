"""Recorded observations, cut into stretches that start in the middle of an episode."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from xfer.runner import Runner, Step
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories, load_trajectories

SPEC = PolicySpec(
    "",
    1.0,
    (TensorSpec("x", "float32", (1,)),),
    (TensorSpec("sum", "float32", (1,)),),
    ActionSpec("discrete", ("a", "b")),
    "values",
)


class Sums:
    """Scores are the sum of what was seen, and its negative."""

    def step(self, observations, states):
        total = states["sum"] + observations["x"]
        scores = np.concatenate([total, -total], axis=1)
        return Step(scores.argmax(1), scores, {"sum": total})


@pytest.fixture
def whole() -> Trajectories:
    x = np.arange(1, 11, dtype=np.float32)[:, None]
    return Trajectories({"x": x}, np.arange(10) % 5 == 0).replay(Runner(Sums(), SPEC))


@pytest.fixture
def late(whole) -> Trajectories:
    """The first two and the last two steps of the second episode."""
    starts = {"sum": np.array([[0], [21]], np.float32)}
    return whole.take([slice(5, 7), slice(8, 10)], starts)


def test_a_stretch_from_late_is_played_from_its_states(whole, late):
    assert late.resets.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(late.scores, whole.scores[[5, 6, 8, 9]])
    np.testing.assert_array_equal(late.replay(Runner(Sums(), SPEC)).scores, late.scores)


def test_states_of_a_mixed_batch_are_those_of_the_rows_that_begin(late):
    assert late.starting(np.array([1, 2, 3, 0]))["sum"].tolist() == [[21], [0]]
    assert late.starting(np.array([1, 3]))["sum"].shape == (0, 1)


def test_taking_again_keeps_what_stretches_start_from(late):
    again = late.take([slice(2, 4), slice(0, 2)])
    assert again.starts["sum"].tolist() == [[21], [0]]
    np.testing.assert_array_equal(again.replay(Runner(Sums(), SPEC)).scores, again.scores)


def test_starting_states_are_saved_and_are_part_of_the_digest(whole, late, tmp_path):
    late.save(tmp_path / "late.safetensors.gz")
    loaded = load_trajectories(tmp_path / "late.safetensors.gz")
    np.testing.assert_array_equal(loaded.starts["sum"], late.starts["sum"])
    assert loaded.digest() == late.digest()
    assert late.take([slice(0, 2)], {"sum": np.ones((1, 1), np.float32)}).digest() != late.take([slice(0, 2)]).digest()


def test_a_file_without_starting_states_starts_from_zeros(whole, tmp_path):
    save_file({"observations.x": whole.observations["x"], "resets": whole.resets}, tmp_path / "older.safetensors")
    older = load_trajectories(tmp_path / "older.safetensors")
    assert older.starts == {}
    np.testing.assert_array_equal(older.replay(Runner(Sums(), SPEC)).scores, whole.scores)
