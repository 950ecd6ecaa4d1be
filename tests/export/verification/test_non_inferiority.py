import numpy as np
import pytest

from export.verification.non_inferiority import MARGIN, judge, log_wealth, pairs_needed, upper_bound

WORSE_BY_THE_MARGIN = {
    "uniform losses": lambda rng, n: rng.uniform(-0.5, 0.5, n) + MARGIN,
    "half of the scale lost in 4 % of the episodes": lambda rng, n: (rng.random(n) < 2 * MARGIN) * 0.5,
    "all of the scale lost in 2 % of the episodes": lambda rng, n: (rng.random(n) < MARGIN) * 1.0,
    "capped returns on both sides": lambda rng, n: (rng.random(n) < 0.06) * 0.5 - (rng.random(n) < 0.02) * 0.5,
}


@pytest.mark.parametrize("kind", WORSE_BY_THE_MARGIN)
def test_a_policy_worse_by_the_margin_is_seldom_verified_however_often_one_looks(kind):
    rng = np.random.default_rng(0)
    verified = 0
    for _ in range(1000):
        losses = WORSE_BY_THE_MARGIN[kind](rng, 600)
        # Verified at any of 600 looks: the stake has grown twentyfold at some point.
        verified += log_wealth(losses, MARGIN).max() >= np.log(20)
    # 5 % is promised; 1,000 simulations of exactly 5 % stay below 6.7 % in 99 of 100 cases.
    assert verified / 1000 <= 0.067


def test_the_simulation_would_notice_a_bound_that_is_too_sure_of_itself():
    rng = np.random.default_rng(0)
    verified = 0
    for _ in range(300):
        losses = WORSE_BY_THE_MARGIN["half of the scale lost in 4 % of the episodes"](rng, 20)
        means = rng.choice(losses, (200, 20)).mean(axis=1)  # the bootstrap that others use
        verified += np.quantile(means, 0.95) < MARGIN
    assert verified / 300 > 0.3


def test_twenty_clean_pairs_are_provisional_and_say_how_many_are_missing():
    verdict = judge(np.zeros(20))
    assert verdict.status == "provisional"
    assert 120 <= verdict.needed <= 160
    assert judge(np.zeros(20 + verdict.needed)).status == "verified"
    assert judge(np.zeros(19 + verdict.needed)).status == "provisional"


def test_one_total_loss_costs_pairs_but_is_no_proof():
    losses = np.zeros(200)
    losses[50] = 1.0
    assert judge(losses).status == "provisional"
    assert pairs_needed(losses) > 60


def test_a_policy_that_loses_is_rejected_and_one_that_gains_is_verified():
    rng = np.random.default_rng(0)
    assert judge(rng.normal(0.1, 0.05, 50)).status == "rejected"
    gains = judge(rng.normal(-0.1, 0.05, 50))
    assert gains.status == "verified"
    assert gains.upper < 0


def test_the_bound_lies_above_the_mean_and_falls_with_more_pairs():
    bounds = [upper_bound(np.zeros(n)) for n in (0, 1, 10, 100, 1000)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == 1.0
    assert 0 < bounds[-1] < 0.004
