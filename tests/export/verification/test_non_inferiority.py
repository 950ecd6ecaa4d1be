import itertools

import numpy as np
import pytest

from export.verification.non_inferiority import (
    MARGIN,
    MAX_PAIRS,
    aligned,
    judge,
    judge_jointly,
    log_wealth,
    refuted,
    upper_bound,
)

WORSE_BY_THE_MARGIN = {
    "uniform losses": lambda rng, n: rng.uniform(-0.5, 0.5, n) + MARGIN,
    "half of the scale lost in 4 % of the episodes": lambda rng, n: (rng.random(n) < 2 * MARGIN) * 0.5,
    "all of the scale lost in 2 % of the episodes": lambda rng, n: (rng.random(n) < MARGIN) * 1.0,
    "capped returns on both sides": lambda rng, n: (rng.random(n) < 0.06) * 0.5 - (rng.random(n) < 0.02) * 0.5,
}
EQUAL_BUT_NOISY = {
    "uniform": lambda rng, n: rng.uniform(-0.5, 0.5, n),
    "normal": lambda rng, n: rng.normal(0, 0.3, n),
    "half of the scale lost or gained in 10 % of the episodes": lambda rng, n: (
        (rng.random(n) < 0.1) * 0.5 * rng.choice([-1, 1], n)
    ),
    "all or nothing": lambda rng, n: rng.choice([-1.0, 1.0], n),
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
    assert (verdict.status, verdict.looks_worse, verdict.needed) == ("provisional", False, 137)
    assert judge(np.zeros(20 + verdict.needed)).status == "verified"
    assert judge(np.zeros(19 + verdict.needed)).status == "provisional"


def test_one_total_loss_costs_pairs_but_is_no_proof():
    losses = np.zeros(200)
    losses[50] = 1.0
    verdict = judge(losses)
    assert verdict.status == "provisional"
    assert verdict.needed > 60


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


# Rejected needs evidence.


@pytest.mark.parametrize("lost_in", [0, 7, 19])
def test_one_pair_of_twenty_that_loses_half_the_scale_rejects_nothing(lost_in):
    losses = np.zeros(20)
    losses[lost_in] = 0.5
    verdict = judge(losses)
    assert verdict.lower < MARGIN < verdict.mean < verdict.upper
    assert (verdict.status, verdict.looks_worse) == ("provisional", True)


@pytest.mark.parametrize("kind", EQUAL_BUT_NOISY)
def test_an_equal_but_noisy_variant_is_seldom_rejected_after_twenty_pairs(kind):
    rng = np.random.default_rng(0)
    statuses = [judge(EQUAL_BUT_NOISY[kind](rng, 20)).status for _ in range(200)]
    assert statuses.count("rejected") <= 0.05 * 200


def test_a_rejection_has_its_lower_bound_above_the_margin():
    rng = np.random.default_rng(0)
    found = [judge(rng.normal(mean, 0.2, 60)) for mean in (0.0, 0.05, 0.1, 0.2) for _ in range(20)]
    rejected = [verdict for verdict in found if verdict.status == "rejected"]
    assert len(rejected) > 10
    assert all(verdict.lower > MARGIN for verdict in rejected)
    assert all(verdict.lower <= MARGIN for verdict in found if verdict.status != "rejected")


def test_what_looks_worse_says_how_many_pairs_like_those_so_far_decide():
    losses = np.tile([0.0, 0.3], 10)
    verdict = judge(losses)
    assert verdict.looks_worse
    assert judge(np.resize(losses, 20 + verdict.needed)).status == "rejected"
    assert judge(np.resize(losses, 19 + verdict.needed)).status == "provisional"
    # Pairs whose mean is the margin itself decide nothing; the search ends all the same.
    assert judge(np.tile([0.0, 0.5], 10), 0.25).needed == MAX_PAIRS


def test_the_mean_is_the_true_one_and_the_bounds_are_of_clipped_losses():
    losses = np.zeros(160)
    losses[[3, 50]] = 12.0
    verdict = judge(losses)
    assert verdict.mean == pytest.approx(0.15)
    assert verdict.clipped == 2
    clipped = judge(np.minimum(losses, 1.0))
    assert (verdict.lower, verdict.upper) == (clipped.lower, clipped.upper)
    assert clipped.clipped == 0


# Joint verdicts.


def clean(count, pairs):
    return {f"clean{i}": np.zeros(pairs) for i in range(count)}


HOPELESS = np.ones(10)


@pytest.mark.parametrize(
    ("others", "hopeless", "pairs"),
    [(0, 0, 157), (12, 0, 157), (11, 1, 193), (10, 2, 214)],
    ids=["alone", "thirteen clean", "one of them hopeless", "two of them hopeless"],
)
def test_so_many_clean_pairs_verify(others, hopeless, pairs):
    worse = {f"worse{i}": HOPELESS for i in range(hopeless)}
    for count, status in ((pairs - 1, "provisional"), (pairs, "verified")):
        found = judge_jointly(clean(others + 1, count) | worse)
        assert {found[name].status for name in found if name not in worse} == {status}
        assert all(found[name].status == "rejected" for name in worse)
    after = judge_jointly(clean(others + 1, 20) | worse)
    assert after["clean0"].needed == pairs - 20
    # Each against all the others by itself (Bonferroni) would need 290 of thirteen.
    assert pairs < 290


def test_those_beside_belong_to_the_family_and_have_no_verdict():
    family = judge_jointly(clean(1, 190) | {"worse": HOPELESS})
    beside = judge_jointly(clean(1, 190), beside=[HOPELESS])
    assert beside == {"clean0": family["clean0"]}
    assert beside["clean0"].needed == 3


def test_needed_pairs_count_only_on_those_that_go_on():
    losses = clean(2, 20)
    assert judge_jointly(losses)["clean0"].needed == 137
    alone = judge_jointly(losses, running=["clean0"])["clean0"].needed
    assert judge_jointly({**losses, "clean0": np.zeros(20 + alone)})["clean0"].status == "verified"
    assert judge_jointly({**losses, "clean0": np.zeros(19 + alone)})["clean0"].status == "provisional"
    assert alone > 137


def test_closed_testing_asks_every_set_that_contains_the_claim():
    rng = np.random.default_rng(0)
    stakes = np.log(rng.choice([0.0001, 1, 10, 19, 21, 25, 40, 60, 200], (5, 300)))
    wealth = np.exp(stakes)
    sets = [list(one) for size in range(1, 6) for one in itertools.combinations(range(5), size)]
    wanted = np.array([np.all([wealth[s].mean(axis=0) >= 20 for s in sets if i in s], axis=0) for i in range(5)])
    assert 0.05 < wanted.mean() < 0.6
    assert (refuted(stakes) == wanted).all()


def test_stakes_are_averaged_at_the_same_look_and_never_their_maxima():
    """Each is over 20 at a time when the other has lost nearly all: never their mean together."""
    early, late = np.log([1.0, 39.0, 0.1, 0.1]), np.log([1.0, 0.1, 0.1, 39.0])
    assert not refuted(np.array([early, late])).any()
    assert refuted(np.array([early])).any()


def test_a_stake_that_ended_stays_and_what_was_refuted_stays_verified():
    assert aligned([np.array([1.0, 2.0]), np.array([]), np.array([3.0, 4.0, 5.0])]).tolist() == [
        [1.0, 2.0, 2.0],
        [0.0, 0.0, 0.0],
        [3.0, 4.0, 5.0],
    ]
    later_lost = np.concatenate([np.zeros(160), np.full(20, 0.5)])
    assert judge(later_lost).status == "verified"


def test_the_order_of_variants_changes_nothing():
    rng = np.random.default_rng(0)
    losses = {f"v{i}": rng.normal(0.0, 0.03 * i, 40 + 10 * i) for i in range(6)}
    found = judge_jointly(losses)
    turned = judge_jointly(dict(reversed(losses.items())))
    assert found == turned
    assert [*judge_jointly(losses)] == [*losses]


@pytest.mark.parametrize("kind", WORSE_BY_THE_MARGIN)
def test_of_thirteen_that_are_worse_by_the_margin_seldom_any_is_verified(kind):
    rng = np.random.default_rng(0)
    losses = np.array([[WORSE_BY_THE_MARGIN[kind](rng, 600) for _ in range(13)] for _ in range(200)])
    stakes = log_wealth(losses, MARGIN)
    # 5 % is promised; 200 simulations of exactly 5 % stay at or below 9 % in 99 of 100 cases.
    assert refuted(stakes).any(axis=(1, 2)).mean() <= 0.09
    each = (stakes.max(axis=2) >= np.log(20)).any(axis=1)
    assert each.mean() > 0.12  # which is what thirteen verdicts for themselves give
