"""What a control loop's ticks prove: exact bounds, and how often they are wrong."""

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.stats.miss_rate import judge, lower_bound, upper_bound


def verdicts(rate, ticks, max_rate, loops=2000, seed=0):
    """Return the share of simulated loops, each missing ticks at a true rate, that is called kept, and missed."""
    drawn = np.random.default_rng(seed).binomial(ticks, rate, loops)
    found = [judge(int(missed), ticks, max_rate).verdict for missed in drawn]
    return found.count("kept") / loops, found.count("missed") / loops


def test_a_true_rate_beyond_the_limit_is_called_kept_in_at_most_5_percent_of_loops():
    # No miss in 3,000 ticks was once called kept: at 1 in 10,000 that are 74 % of loops.
    assert verdicts(1e-4, 3000, max_rate=0.99e-4)[0] == 0
    for rate, ticks in ((0.001, 3000), (0.001, 30_000), (0.01, 3000), (1e-4, 300_000)):
        assert verdicts(rate, ticks, max_rate=0.999 * rate)[0] <= 0.06


def test_a_true_rate_within_the_limit_is_called_missed_in_at_most_5_percent_of_loops():
    for rate, ticks in ((0.001, 3000), (0.01, 3000), (1e-4, 300_000)):
        assert verdicts(rate, ticks, max_rate=1.001 * rate)[1] <= 0.06


def test_what_is_far_from_the_limit_is_told():
    assert verdicts(1e-5, 30_000, max_rate=0.001)[0] == 1.0
    assert verdicts(0.02, 3000, max_rate=0.001)[1] == 1.0


@pytest.mark.parametrize(("missed", "ticks"), [(0, 1), (0, 3000), (3, 3000), (40, 500), (499, 500), (500, 500)])
def test_the_bounds_are_clopper_and_pearson_s(missed, ticks):
    # The two-sided interval at 90 % has both one-sided bounds at 95 %.
    interval = binomtest(missed, ticks).proportion_ci(0.9, method="exact")
    assert (lower_bound(missed, ticks), upper_bound(missed, ticks)) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("missed", "ticks", "limit"), [(0, 1, 0.001), (0, 600, 0.001), (2, 3000, 0.001), (1, 10, 0.2)])
def test_so_many_more_ticks_prove_it_and_one_fewer_does_not(missed, ticks, limit):
    found = judge(missed, ticks, limit)
    assert found.verdict == "not proven"
    assert judge(missed, ticks + found.more, limit).verdict == "kept"
    assert judge(missed, ticks + found.more - 1, limit).verdict == "not proven"


def test_a_minute_at_50_hz_proves_one_in_a_thousand_and_ten_seconds_do_not():
    assert judge(0, 3000, 0.001).verdict == "kept"
    assert judge(0, 500, 0.001).more == 2495
    assert judge(0, 2994, 0.001).more == 1


def test_where_nobody_can_wait_for_the_proof_no_number_is_named():
    assert judge(0, 10, 1e-10).more is None
