"""How far a variant may be off: no huge score, no mask and no wide joint makes room for errors elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.bundle.spreads import find_reach, masked, measure_spreads
from export.verification.parity import actions, compare
from export.verification.tolerances import action_scale, compare_scores, regret
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

X = TensorSpec("x", "float32", (4,))
ROWS = 400


def discrete(kind="values", count=3):
    return PolicySpec("", 50.0, (X,), (), ActionSpec("discrete", tuple("abcdefgh"[:count])), kind)


def continuous(low=(), high=(), count=2):
    action = ActionSpec("continuous", tuple("abcdefgh"[:count]), "", tuple(low), tuple(high))
    return PolicySpec("", 50.0, (X,), (), action, "mean")


def chose(scores):
    scores = np.asarray(scores, np.float32)
    return Trajectories({}, np.arange(len(scores)) == 0, scores.argmax(axis=1), scores)


def moved(values):
    values = np.asarray(values, np.float32)
    return Trajectories({}, np.arange(len(values)) == 0, values, values)


def failure(reference, variant, spec, precision="fp32"):
    spreads = measure_spreads([reference], spec)
    found = compare(reference, variant, spec, spreads, precision, "step {step}").failure
    return found or actions(reference, variant, spec, precision, spreads).failure


def flipped(reference, rows):
    """The reference, with the second best action chosen at some rows."""
    chosen = reference.actions.copy()
    chosen[rows] = reference.scores[rows].argsort(axis=1)[:, -2]
    return Trajectories({}, reference.resets, chosen, reference.scores)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


MASKS = [-1e4, -1e8, -1e30, float(np.finfo(np.float32).min)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_masks_make_no_room_for_flipped_actions(rng, mask, share):
    scores = rng.normal(size=(ROWS, 6)).astype(np.float32)
    off = rng.random((ROWS, 6)) < share
    off[np.arange(ROWS), rng.integers(6, size=ROWS)] = False  # one is always allowed
    reference = chose(np.where(off, np.float32(mask), scores))
    free = np.flatnonzero((~off).sum(axis=1) > 1)
    assert "is chosen" in failure(reference, flipped(reference, free[:5]), discrete(count=6))
    worse = np.where(off, reference.scores, reference.scores + 0.05 * rng.normal(size=scores.shape))
    assert "differs by" in failure(reference, chose(worse), discrete(count=6))
    noise = reference.scores * (1 + 1e-6 * rng.normal(size=scores.shape))
    assert failure(reference, chose(np.clip(noise, np.finfo(np.float32).min, None)), discrete(count=6)) == ""


@pytest.mark.parametrize("kind", ["logits", "values"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_choosing_a_masked_action_fails(rng, kind, precision):
    scores = rng.normal(size=(ROWS, 3)).astype(np.float32)
    scores[:, 2] = -1e8
    reference = chose(scores)
    chosen = reference.actions.copy()
    chosen[7] = 2
    variant = Trajectories({}, reference.resets, chosen, reference.scores)
    assert "'c'" in failure(reference, variant, discrete(kind), precision)


def test_a_mask_that_is_lost_fails_though_the_same_action_is_chosen(rng):
    scores = rng.normal(size=(ROWS, 3)).astype(np.float32)
    scores[:, 2] = -1e8
    reference = chose(scores)
    for lost in (np.where(scores == np.float32(-1e8), -9.0, scores), np.where(scores < -1e7, -50.0, scores)):
        assert "one is a mask" in failure(reference, chose(lost), discrete())
    gained = scores.copy()
    gained[3, scores[3, :2].argmin()] = -1e8
    assert failure(reference, chose(gained), discrete()) != ""


@pytest.mark.parametrize("rare", [0.005, 0.03, 0.1])
def test_rare_large_states_make_no_room_for_flips_at_the_usual_ones(rng, rare):
    large = rng.random(ROWS) < rare
    scores = (rng.normal(size=(ROWS, 3)) * np.where(large, 1e4, 1)[:, None]).astype(np.float32)
    reference, usual = chose(scores), np.flatnonzero(~large)
    assert "is chosen" in failure(reference, flipped(reference, usual[:5]), discrete())
    assert failure(reference, flipped(reference, usual[:40]), discrete(), "int8") != ""
    noise = scores * (1 + 1e-6 * rng.normal(size=scores.shape))
    assert failure(reference, chose(noise), discrete()) == ""


def usual(rng):
    return rng.normal(size=(ROWS, 3))


def wide(rng, low, high):
    """The third score lies far below the others by an amount of its own at each row, at most rows."""
    scores = usual(rng)
    often = rng.random(ROWS) < 0.9
    scores[often, 2] = -rng.uniform(low, high, often.sum())
    return scores


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: wide(rng, 500, 5000),
        lambda rng: wide(rng, 5e7, 2e8),
        lambda rng: np.where(rng.random((ROWS, 3)) < [0, 0, 0.5], -1e3, usual(rng)),
        lambda rng: np.where(rng.random((ROWS, 3)) < [0, 0, 0.5], -100, usual(rng)),
        lambda rng: usual(rng) * np.where(rng.random(ROWS) < 0.4, 1e4, 1)[:, None],
    ],
    ids=["one score is wide", "masks of no fixed value", "masks of -1000", "masks of -100", "often large"],
)
def test_neither_wide_scores_nor_small_masks_make_room_for_flips(rng, make):
    reference = chose(make(rng))
    top = np.sort(reference.scores, axis=1)
    gap = top[:, -1] - top[:, -2]
    rows = np.flatnonzero((gap > 0.1) & (gap < 5))
    for row in rows[:20]:
        assert "is chosen" in failure(reference, flipped(reference, [row]), discrete())
    assert "mean regret" in failure(reference, flipped(reference, rows[: ROWS // 20]), discrete(), "int8")
    noise = reference.scores * (1 + 1e-6 * rng.normal(size=reference.scores.shape))
    assert failure(reference, chose(noise), discrete()) == ""


def test_scores_of_few_values_have_a_spread(rng):
    reference = chose(np.eye(3)[rng.integers(3, size=ROWS)])
    assert min(measure_spreads([reference], discrete()).scores) > 0.1


def test_a_flip_at_a_tie_is_no_other_choice(rng):
    scores = rng.normal(size=(ROWS, 2)).astype(np.float32)
    scores[:50, 1] = scores[:50, 0] + 1e-5
    reference = chose(scores)
    assert failure(reference, flipped(reference, np.arange(50)), discrete(count=2)) == ""
    clear = np.flatnonzero(np.abs(scores[:, 0] - scores[:, 1]) > 0.01)
    assert failure(reference, flipped(reference, clear[:1]), discrete(count=2)) != ""


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros((ROWS, 3)),
        np.full((ROWS, 3), 7.5),
        np.arange(ROWS)[:, None] * np.ones((1, 1)),
        1000 + 0.001 * np.random.default_rng(1).normal(size=(ROWS, 3)),
        np.random.default_rng(2).normal(size=(ROWS, 3)) * [1, 1, 0] + [0, 0, 2],
        np.random.default_rng(3).normal(size=(ROWS, 3)) * [1, 100, 1e-3],
        np.random.default_rng(4).normal(size=(ROWS, 3)) + 1e4 * (np.arange(ROWS) % 5 < 2)[:, None],
    ],
    ids=[
        "all zero",
        "all equal",
        "one action",
        "a great offset",
        "one never moves",
        "unlike elements",
        "an offset at times",
    ],
)
def test_scores_of_every_kind_pass_with_the_noise_of_float32(rng, scores):
    reference = chose(scores)
    noise = reference.scores * (1 + 1e-6 * rng.normal(size=scores.shape))
    assert failure(reference, chose(noise), discrete(count=scores.shape[1])) == ""


def test_joints_of_unlike_scale_are_judged_each_by_its_own(rng):
    spec = continuous((-0.001, -100), (0.001, 100))
    wanted = rng.uniform(-1, 1, (ROWS, 2)) * [0.001, 100]
    fine, wide = wanted * [-1, 1], wanted * [1, 1.0001]
    assert "'a'" in failure(moved(wanted), moved(fine), spec)
    assert "'a'" in failure(moved(wanted), moved(fine), spec, "int8")
    assert failure(moved(wanted), moved(wide), spec) == ""


def test_one_bad_joint_among_many_is_not_diluted(rng):
    low, high = [-1.0] * 8, [1.0] * 8
    wanted = rng.uniform(-1, 1, (ROWS, 8))
    bad = wanted.copy()
    bad[:, 5] = rng.permutation(bad[:, 5])
    assert "'f'" in failure(moved(wanted), moved(bad), continuous(low, high, 8), "int8")


def test_wide_bounds_do_not_excuse_a_policy_that_uses_little_of_them(rng):
    wanted = np.tanh(rng.normal(size=(ROWS, 2)))
    wrong = wanted + 0.4 * rng.choice([-1, 1], size=wanted.shape)
    spec = continuous((-100, -100), (100, 100))
    assert "mean difference" in failure(moved(wanted), moved(wrong), spec, "int8")
    assert failure(moved(wanted), moved(wanted + 0.001 * rng.normal(size=wanted.shape)), spec, "int8") == ""


def test_without_bounds_the_spread_is_the_scale(rng):
    wanted = rng.normal(size=(ROWS, 2)) * [1, 10]
    assert failure(moved(wanted), moved(wanted * (1 + 1e-6)), continuous()) == ""
    assert failure(moved(wanted), moved(wanted + np.array([0.5, 0])), continuous(), "int8") != ""
    still = wanted * [1, 0] + [0, 5]
    assert failure(moved(still), moved(still), continuous()) == ""
    assert action_scale(continuous().action, measure_spreads([moved(still * 0)], continuous())).min() > 0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_actions_that_are_no_number_fail(rng, precision):
    wanted = rng.uniform(-1, 1, (ROWS, 2))
    broken = moved(wanted).actions.copy()
    broken[3, 1] = np.nan
    variant = Trajectories({}, moved(wanted).resets, broken, moved(wanted).scores)
    found = actions(moved(wanted), variant, continuous((-1, -1), (1, 1)), precision)
    assert "allowed" in found.failure
    scores = moved(wanted).scores.copy()
    scores[3, 1] = np.nan
    spreads = measure_spreads([moved(wanted)], continuous())
    lost = Trajectories({}, variant.resets, moved(wanted).actions, scores)
    assert precision == "int8" or compare(moved(wanted), lost, continuous(), spreads, precision, "{step}").failure


@given(st.integers(0, 2**32 - 1), st.sampled_from(MASKS), st.floats(0, 0.9))
def test_masks_are_found_whatever_their_value_and_share(seed, mask, share):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(200, 5)) * 10 ** rng.uniform(-2, 1)
    off = rng.random((200, 5)) < share
    off[np.arange(200), rng.integers(5, size=200)] = False
    scores = np.where(off, mask, scores).astype(np.float32)
    np.testing.assert_array_equal(masked(scores, find_reach(scores)), off)


def test_regret_of_values_is_in_units_that_masks_cannot_stretch(rng):
    scores = rng.normal(size=(ROWS, 3)).astype(np.float32)
    spec, rows = discrete(), np.arange(ROWS)
    plain = regret(scores, rows % 3, spec, measure_spreads([chose(scores)], spec))
    wide = np.concatenate([scores, np.full((ROWS, 1), -1e8, np.float32)], axis=1)
    spec = discrete(count=4)
    with_mask = regret(wide, rows % 3, spec, measure_spreads([chose(wide)], spec))
    np.testing.assert_allclose(with_mask, plain, rtol=0.5)


def test_int8_scores_are_reported_and_not_judged(rng):
    scores = rng.normal(size=(ROWS, 3)).astype(np.float32)
    spread = measure_spreads([chose(scores)], discrete())
    found = compare_scores(scores, scores + np.array([0.5, 0, 0]), discrete(), spread, "int8")
    assert np.isinf(found.allowed).all()
    assert found.difference.max() == pytest.approx(0.5, rel=1e-3)
