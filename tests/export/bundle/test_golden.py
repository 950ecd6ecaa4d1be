"""Which recorded steps become golden."""

import numpy as np
import pytest

from export.bundle.golden import LEAST_ROWS, MOST_BYTES, MOST_ROWS, stretches
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
