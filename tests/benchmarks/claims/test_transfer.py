from dataclasses import replace

import numpy as np
import pytest

from benchmarks.claims import Options, _learning_curves, transfer
from benchmarks.claims._learning_curves import Curve
from benchmarks.claims.transfer import Protocol, judge, rank
from xfer import tasks
from xfer.errors import UsageError
from xfer.training.run_folder import RunFolder


def curve(*success, label="from scratch", seed=0, step=500):
    return Curve(label, seed, tuple(step * i for i in range(len(success))), success, 60.0)


@pytest.mark.parametrize(
    ("success", "frames"),
    [
        ((0.1, 0.5, 0.9, 0.95), 1000),
        ((0.1, 0.9, 0.89, 0.9, 1.0), 1500),  # once may have been luck
        ((0.1, 0.5, 0.9), None),  # nobody knows whether it would have stayed
        ((0.1, 0.2, 0.3), None),
        ((0.95, 0.95, 0.95), 500),  # what was there before the first frame does not count
        ((0.95,), None),
    ],
)
def test_frames_count_until_success_is_held_in_two_evaluations(success, frames):
    assert curve(*success).reached(0.9) == frames


GOOD, LATER, LATEST = curve(0.5, 0.95, 0.95), curve(0, 0, 0, 0, 1, 1), curve(0, 0, 0, 0, 0, 0, 1, 1)
NEVER = curve(*[0.5] * 20)


def test_the_ratio_is_that_of_the_medians():
    row = judge([GOOD, curve(0.5, 0.8, 0.95, 0.95), GOOD], [LATER, NEVER, LATEST], 9000)
    assert row["transfer_frames"] == (500, 1000, 500)
    assert row["scratch_frames"] == (2000, None, 3000)
    assert (row["ratio"], row["at_least"], row["holds"]) == (6.0, False, True)
    assert not judge([LATER] * 3, [LATEST] * 3, 9000)["holds"]


def test_where_scratch_never_gets_there_its_budget_is_a_lower_bound():
    row = judge([LATER] * 3, [LATER, NEVER, NEVER], 9000)
    assert (row["ratio"], row["at_least"], row["holds"]) == (4.5, True, True)
    even = judge([LATER] * 2, [LATER, NEVER], 9000)
    assert (even["ratio"], even["at_least"]) == (2.75, True)


def test_transfer_that_never_gets_there_does_not_hold():
    row = judge([NEVER, NEVER, GOOD], [NEVER] * 3, 9000)
    assert (row["ratio"], row["holds"]) == (0.0, False)


def test_the_better_scratch_is_the_one_that_is_there_sooner_else_the_one_that_is_further():
    assert sorted([NEVER, LATEST, curve(0.1, 0.6, 0.8), LATER], key=rank) == [
        LATER,
        LATEST,
        curve(0.1, 0.6, 0.8),
        NEVER,
    ]


def test_a_run_that_ended_counts_with_its_last_evaluation():
    assert [GOOD.at(frames) for frames in (0, 499, 500, 100_000)] == [0.5, 0.5, 0.95, 0.95]


def test_the_band_reaches_from_the_worst_seed_to_the_best():
    runs = [curve(0.1, 0.2, 0.9), curve(0.1, 0.6, 0.8), curve(0.1, 0.4)]
    figure = _learning_curves.plot([*runs, curve(0.7, 0.9, 0.9, label="transfer")], 0.9)
    band, _ = figure.axes[0].collections
    heights = {x: band.get_paths()[0].vertices[:, 1][band.get_paths()[0].vertices[:, 0] == x] for x in (500, 1000)}
    assert (min(heights[500]), max(heights[500])) == pytest.approx((20, 60))
    assert (min(heights[1000]), max(heights[1000])) == pytest.approx((40, 90))
    lines = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert np.allclose(lines[0], [10, 40, 80])


def test_more_seeds_than_lie_below_the_one_for_tuning_are_refused():
    with pytest.raises(UsageError, match="--runs 101"):
        transfer.reproduce(Options(name="transfer", runs=101))


def small(world):
    """A world for a network of one convolution."""
    task = tasks.load(f"navigation:{world}")
    return replace(task, defaults={**task.defaults, "tap": "stem"})


def empty():
    return small("empty")


def crossing():
    return small("crossing-n1")


TINY = Protocol(
    simpler=("tests.benchmarks.claims.test_transfer:empty",),
    source_rounds=1,
    source_frames=64,
    source_steps=2,
    target="tests.benchmarks.claims.test_transfer:crossing",
    frames=32,
    steps=2,
    rounds=1,
    scratch={"head": (1e-3,)},
    tuning_rounds=1,
    episodes=4,
)


@pytest.mark.usefixtures("few_recordings")
def test_a_small_comparison_from_end_to_end(one_thread, tmp_path, capsys):
    pytest.importorskip("minigrid", reason="needs minigrid: pip install 'xfer-policy[navigation]'")
    found = transfer.compare(TINY, tmp_path, 0, 1)
    (row,) = found.rows
    assert row["holds"] is (row["ratio"] >= transfer.MIN_RATIO)
    assert row["source_frames"] == (64,)
    frames = {name: [r.frames for r in RunFolder(tmp_path / f"{name}-0").rounds()] for name in ("transfer", "scratch")}
    assert frames["transfer"] == [32]
    assert frames["scratch"][0] == 32
    assert len(frames["scratch"]) <= 3
    assert RunFolder(tmp_path / "transfer-0").config().weights == str(tmp_path / "source-0-empty")
    assert RunFolder(tmp_path / "scratch-0").config().imitation.train_from == "head"
    assert "random trunk frozen" in " ".join(found.notes)
    assert (tmp_path / _learning_curves.PICTURE).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / _learning_curves.PAGE).read_text()
    assert "<svg" in page
    assert "from scratch, seed 0" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    capsys.readouterr()
    assert transfer.compare(TINY, tmp_path, 0, 1).rows == found.rows
    assert " ".join(capsys.readouterr().out.split()).count("is finished already") == 4
