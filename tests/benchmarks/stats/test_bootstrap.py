import numpy as np
import pytest

from benchmarks.stats.bootstrap import Interval, interquartile_mean, mean, summarize


def test_the_interval_of_the_mean_is_that_of_the_normal_distribution_where_that_fits():
    returns = np.random.default_rng(1).normal(100, 20, 400)
    found = mean(returns)
    assert found.value == pytest.approx(returns.mean())
    half = 1.96 * returns.std() / np.sqrt(len(returns))
    assert found.low == pytest.approx(returns.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(returns.mean() + half, abs=0.1 * half)


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        found = mean(rng.normal(0, 1, 60))
        covered += found.low <= 0 <= found.high
    # 95 % is meant; 100 tries of exactly that give 88 or more in 99.5 of 100 cases.
    assert covered >= 88


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    assert interquartile_mean([500, 1, 2, 3, 4, 5, 6, -90]).value == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_one_lost_episode_moves_the_mean_but_not_the_interquartile_mean():
    found = summarize([500.0] * 19 + [10.0])
    assert found.iqm == Interval(500.0, 500.0, 500.0)
    assert found.mean.value == pytest.approx(475.5)
    assert found.mean.low < 475.5 < found.mean.high
    assert found.episodes == 20


@pytest.mark.parametrize("returns", [[9.1] * 7, [3.0]])
def test_equal_returns_give_an_interval_without_width(returns):
    assert summarize(returns).mean == summarize(returns).iqm == Interval(returns[0], returns[0], returns[0])


def test_the_same_returns_give_the_same_figures():
    returns = list(np.random.default_rng(3).uniform(0, 500, 30))
    assert summarize(returns) == summarize(returns)


def test_no_returns_are_an_error():
    with pytest.raises(ValueError, match="no returns"):
        summarize([])
