"""Which recorded steps become golden, and what is no golden."""

from dataclasses import replace

import numpy as np
import pytest

from export.bundle.golden import LEAST_ROWS, MOST_BYTES, MOST_ROWS, MOST_UNPACKED, read_reference, stretches
from xfer.errors import BundleError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories


def recorded(lengths: list[int], size: int = 2) -> tuple[Trajectories, PolicySpec]:
    """Noise that nothing compresses."""
    steps = sum(lengths)
    frames = np.random.default_rng(0).integers(0, 256, (steps, size), np.uint8)
    resets = np.isin(np.arange(steps), np.cumsum([0, *lengths]))
    action = ActionSpec("discrete", ("a", "b"))
    spec = PolicySpec("", 1.0, (TensorSpec("frame", "uint8", (size,)),), (), action, "logits")
    return Trajectories({"frame": frames}, resets), spec


def rows(parts: list[slice]) -> int:
    return sum(part.stop - part.start for part in parts)


def test_beginnings_and_ends_of_the_longest_episodes_are_taken():
    assert stretches(*recorded([250, 8, 250, 250, 242])) == [
        slice(0, 10),
        slice(240, 250),
        slice(258, 268),
        slice(498, 508),
        slice(508, 518),
        slice(748, 758),
    ]


@pytest.mark.parametrize("lengths", [[500], [40, 300], [250] * 4, [5] * 100, [1] * 100, [30, 3, 3, 3], [20], [9]])
def test_stretches_are_long_enough_late_enough_and_few_enough(lengths):
    trajectories, spec = recorded(lengths)
    parts = stretches(trajectories, spec)
    assert min(LEAST_ROWS, sum(lengths)) <= rows(parts) <= MOST_ROWS
    ends = {episode.stop for episode in trajectories.episodes()}
    assert any(part.stop in ends for part in parts), "late ones are among them"
    for part in parts:
        assert part.stop - part.start >= 6 or part in trajectories.episodes()
    assert parts == sorted(parts, key=lambda part: part.start)
    assert len({t for part in parts for t in range(part.start, part.stop)}) == rows(parts), "none twice"


def test_large_frames_leave_fewer_rows_but_at_least_twelve(tmp_path):
    large, spec = recorded([60] * 2, 200_000)
    parts = stretches(large, spec)
    assert LEAST_ROWS < rows(parts) <= MOST_BYTES // 200_000
    large.take(parts).save(tmp_path / "golden.safetensors.gz")
    assert (tmp_path / "golden.safetensors.gz").stat().st_size < 1.01 * MOST_BYTES
    assert rows(stretches(*recorded([60] * 2, 2_000_000))) == LEAST_ROWS


def test_frames_that_compress_well_are_no_more_than_fit_into_memory():
    flat, spec = recorded([60] * 2)
    size = MOST_UNPACKED // 20
    flat = replace(flat, observations={"frame": np.broadcast_to(np.uint8(7), (120, size))})
    large = replace(spec, observations=(TensorSpec("frame", "uint8", (size,)),))
    assert LEAST_ROWS <= rows(stretches(flat, large)) <= 20


SPEC = replace(recorded([4])[1], states=(TensorSpec("memory", "float32", (3,)),))


def live(**changes) -> Trajectories:
    """What a policy with a memory did in two stretches."""
    observations = {"frame": np.zeros((4, 2), np.uint8)}
    scores, starts = np.zeros((4, 2), np.float32), {"memory": np.zeros((2, 3), np.float32)}
    done = Trajectories(observations, np.array([True, False, True, False]), np.zeros(4, np.int64), scores, starts)
    return replace(done, **changes)


@pytest.mark.parametrize("starts", [live().starts, {}])
def test_golden_of_the_spec_is_read_and_of_version_0_2_0_too(tmp_path, starts):
    live(starts=starts).save(tmp_path / "golden")
    assert read_reference(tmp_path / "golden", SPEC, observations=True).starts.keys() == starts.keys()


def test_held_out_comes_without_observations(tmp_path):
    live(observations={}, starts={}).save(tmp_path / "held-out")
    assert len(read_reference(tmp_path / "held-out", SPEC, observations=False)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": {}}, r"observations.frame is missing; the spec says uint8 \[T, 2\]"),
        ({"observations": {"frame": np.zeros((4, 3), np.uint8)}}, r"observations.frame is uint8 \[4, 3\]; the spec"),
        ({"observations": {"frame": np.zeros((4, 2), np.float32)}}, "observations.frame is float32"),
        ({"observations": {"frame": np.zeros((3, 2), np.uint8)}}, "there must be one row a step"),
        ({"actions": None}, "actions is missing"),
        ({"actions": np.zeros((4, 1), np.int64)}, r"actions is int64 \[4, 1\]; the spec says int64 \[T\]"),
        ({"actions": np.zeros(4, np.float32)}, "actions is float32"),
        ({"scores": None}, "scores is missing"),
        ({"scores": np.zeros((4, 3), np.float32)}, r"scores is float32 \[4, 3\]; the spec says float32 \[T, 2\]"),
        ({"scores": np.zeros((4, 2))}, "scores is float64"),
        ({"starts": {"memory": np.zeros((2, 4), np.float32)}}, r"starts.memory is float32 \[2, 4\]"),
        ({"starts": {"memory": np.zeros((3, 3), np.float32)}}, "starts.memory has 3 rows, and 2 stretches begin"),
        ({"starts": {"other": np.zeros((2, 3), np.float32)}}, "starts.memory is missing"),
        ({"resets": np.array([True, False, True])}, "there must be one row a step"),
        ({"resets": np.array([1, 0, 1, 0])}, "`resets` is int64"),
        ({"resets": np.array([False, True, True, False])}, "the first of `resets` is false"),
    ],
)
def test_what_is_not_of_the_spec_is_refused_in_one_line(tmp_path, changes, message):
    live(**changes).save(tmp_path / "golden")
    with pytest.raises(BundleError, match=message) as refused:
        read_reference(tmp_path / "golden", SPEC, observations=True)
    assert "\n" not in str(refused.value)
    assert str(tmp_path / "golden") in str(refused.value)
