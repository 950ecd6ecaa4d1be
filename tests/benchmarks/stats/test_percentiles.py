from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure.interference import Interference
from benchmarks.measure.protocol import Measurement, Protocol
from benchmarks.report.rows import summarize
from benchmarks.stats.percentiles import (
    MIN_SAMPLES,
    drift,
    fewest_turns,
    is_stable,
    percentile,
    settled,
    speedups,
    upper_bound,
    windows,
)
from export.verification.non_inferiority import log_wealth


def test_percentile_is_the_smallest_sample_that_enough_samples_do_not_exceed():
    samples = np.random.default_rng(0).permutation(np.arange(1, 1001)).tolist()
    assert percentile(samples, 0.5) == 500
    assert percentile(samples, 0.9) == 900
    assert percentile(samples, 0.99) == 990


@pytest.mark.parametrize(("share", "floor"), [(0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_a_percentile_below_its_sample_floor_is_not_given(share, floor):
    samples = list(range(floor))
    assert percentile(samples, share) is not None
    assert percentile(samples[:-1], share) is None
    assert upper_bound([[sample] for sample in samples[:-1]], share) is None


@pytest.mark.parametrize("share", MIN_SAMPLES)
def test_a_share_between_two_floors_needs_the_higher_one(share):
    floor = next((f for s, f in MIN_SAMPLES.items() if share + 1e-6 <= s), 6636)
    assert percentile(list(range(floor)), share + 1e-6) is not None
    assert percentile(list(range(floor - 1)), share + 1e-6) is None


@given(st.lists(st.floats(1e-6, 1e3), min_size=64, max_size=200))
def test_a_bound_is_a_sample_and_not_below_its_percentile(samples):
    bound = upper_bound([samples[start : start + 2] for start in range(0, len(samples), 2)], 0.9)
    if bound is not None:
        assert bound in samples
        assert bound >= percentile(samples, 0.9)


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_the_bound_lies_above_the_true_percentile_in_99_of_100_runs(share):
    random = np.random.default_rng(7)
    runs, turns = 500, 520
    bounds = np.array([upper_bound(random.exponential(size=(turns, 4)), share) for _ in range(runs)])
    # At most 1 % by construction; three standard errors of 500 runs are 1.3 %.
    assert np.mean(bounds < -np.log(1 - share)) <= 0.023
    # A bound that always held would prove nothing: it lies close above.
    assert np.median(bounds) < {0.9: 1.2, 0.99: 1.6}[share] * -np.log(1 - share)


@pytest.mark.parametrize("slowed", [0.01, 0.02])
def test_the_bound_of_p99_holds_where_turns_are_slowed_as_a_whole(slowed):
    """As when a neighbor wakes up: the calls of one turn are no independent observations."""
    random = np.random.default_rng(3)
    runs, turns = 300, 520
    # 1 % of the turns carry the top 1 % of the calls; with 2 %, half of them lie above p99.
    truth = 3.0 if slowed == 0.02 else 1.0
    covered = 0
    for _ in range(runs):
        slow = np.where(random.random((turns, 1)) < slowed, 3.0, 1.0)
        times = slow * random.uniform(0.9, 1.0, (turns, 20))
        # The 99th percentile of the mixture: of the 2 %, the median of the slow ones.
        covered += upper_bound(times, 0.99) >= (0.95 * truth if slowed == 0.02 else 0.9999 * truth)
    assert covered / runs >= 0.98


def test_the_bound_inverts_the_reward_gate_s():
    """Against a plain loop over all samples, from the largest down."""
    random = np.random.default_rng(1)
    turns = [random.exponential(size=random.integers(1, 4)) for _ in range(60)]
    found = None
    for time in sorted(np.concatenate(turns), reverse=True):
        shares = np.array([np.mean(turn > time) for turn in turns])
        if log_wealth(shares, 0.2).max() < np.log(100):
            break
        found = time
    assert upper_bound(turns, 0.8) == found


@pytest.mark.parametrize(("share", "turns"), [(0.5, 7), (0.9, 46), (0.95, 95), (0.99, 483), (0.999, 4846)])
def test_with_too_few_turns_there_is_no_bound(share, turns):
    times = np.linspace(1.0, 2.0, turns * 100).reshape(100, turns).T
    flat = np.ones((turns, 100))
    assert fewest_turns(share) == turns
    assert upper_bound(flat, share) == 1.0
    assert upper_bound(flat[:-1], share) is None
    assert upper_bound(times[:-1], share) is None


def test_a_bound_that_not_even_the_largest_sample_gives_is_not_given():
    assert upper_bound([[float(i)] for i in range(662)], 0.99, confidence=0.9999999) is None


def test_stretches_that_agree_within_five_percent_are_stable():
    assert is_stable([[1.0] * 9, [1.02] * 9, [1.01] * 9, [1.0] * 9, [1.04] * 9])


def test_one_stretch_that_is_slower_is_unstable():
    assert not is_stable([[1.0] * 9] * 4 + [[1.06] * 9])


def test_a_slow_call_in_a_stretch_does_not_make_it_unstable():
    assert is_stable([[1.0] * 9 + [50.0]] * 5)


def test_four_rounds_are_no_proof_of_stability():
    assert not is_stable([[1.0] * 9] * 4)


def test_a_machine_that_changes_its_speed_moves_the_times_and_not_the_speed_ups():
    eager = [[10.0] * 3, [12.0] * 3, [15.0] * 3, [10.0] * 3, [11.0] * 3]
    assert drift(eager) > 0.3
    assert is_stable([[samples[0] / 5] * 9 for samples in eager], eager)
    assert not is_stable([[2.0] * 9] * 5, eager)  # nothing slows this one down: its speed-up moves


def test_a_window_pools_consecutive_rounds_and_every_round_is_in_one():
    rounds = [[float(index)] for index in range(20)]
    assert windows(rounds) == [[float(4 * window + part) for part in range(4)] for window in range(5)]
    uneven = windows(rounds[:7])
    assert [len(window) for window in uneven] == [1, 1, 2, 1, 2]
    assert [sample for window in uneven for sample in window] == [float(index) for index in range(7)]
    assert windows(rounds[:3]) == rounds[:3]
    assert windows([]) == []


def test_a_drift_over_the_rounds_is_unstable_and_one_slow_round_of_twenty_is_not():
    assert not is_stable([(1.0 + 0.01 * index,) * 9 for index in range(20)])
    assert is_stable([(1.0,) * 9] * 19 + [(1.2,) * 9])


def test_warm_up_settles_when_its_last_windows_agree():
    assert not settled([1.0, 1.0])
    assert not settled([3.0, 2.0, 1.0])
    assert settled([9.0, 1.0, 1.02, 1.01])


def test_a_speed_up_is_taken_within_a_round_so_that_a_slow_round_cancels():
    eager = [[10.0] * 3, [40.0] * 3, [10.0] * 3]
    variant = [[2.0] * 5, [8.0] * 5, [2.5] * 5]
    assert speedups(eager, variant) == [5.0, 5.0, 4.0]


def test_speed_ups_of_unequal_rounds_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        speedups([[1.0]] * 5, [[1.0]] * 4)


def _measurement(seconds, error="", rounds=5, each=200):
    return Measurement("x", "onnx-fp32", ((seconds,) * each,) * rounds, threads=2, error=error)


def test_a_summary_is_in_milliseconds_and_relative_to_the_baseline():
    latency = summarize(_measurement(0.002), _measurement(0.010), Protocol(threads=2))
    assert latency.p50_ms == latency.p99_ms == latency.max_ms == pytest.approx(2)
    assert latency.p99_upper_ms is None  # of 5 rounds whose turns were not kept apart
    assert latency.speedup == pytest.approx(5)
    assert latency.speedup_spread == pytest.approx((5, 5))
    assert (latency.samples, latency.stable, latency.quick, latency.threads) == (1000, True, False, 2)


def test_a_summary_of_too_few_samples_leaves_p99_open():
    latency = summarize(_measurement(0.002, each=50), None, Protocol(threads=2, quick=True))
    assert latency.p95_ms == pytest.approx(2)
    assert (latency.p99_ms, latency.p99_upper_ms, latency.speedup) == (None, None, None)
    assert latency.quick


def test_every_percentile_has_its_bound_and_p999_only_with_enough_calls():
    samples = tuple(np.random.default_rng(0).exponential(size=(20, 750)).tolist())
    turns = ((3,) * 250,) * 20
    one = Measurement("x", "onnx-fp32", tuple(map(tuple, samples)), turns=turns)
    latency = summarize(one, None, Protocol(threads=1))
    assert latency.samples == 15000
    for name in ("p50", "p90", "p95", "p99", "p999"):
        assert getattr(latency, f"{name}_ms") < getattr(latency, f"{name}_upper_ms") <= latency.max_ms
    fewer = summarize(_measurement(0.002), None, Protocol(threads=1))
    assert (fewer.p999_ms, fewer.p999_upper_ms) == (None, None)


def test_disturbed_rounds_are_counted_and_stay():
    noise = tuple(Interference(others=0.3 if index < 2 else 0.0, steal=0.0) for index in range(5))
    latency = summarize(replace(_measurement(0.002), disturbances=noise), None, Protocol(threads=1))
    assert (latency.rounds, latency.disturbed_rounds, latency.samples) == (5, 2, 1000)


def test_a_failed_variant_has_no_figures_and_a_failed_baseline_no_speed_up():
    protocol = Protocol(threads=2)
    assert summarize(_measurement(0.002, error="died"), _measurement(0.010), protocol) is None
    assert summarize(_measurement(0.002), _measurement(0.010, error="died", rounds=2), protocol).speedup is None


def test_the_reference_is_as_stable_as_its_own_times():
    """Against itself it would always be."""
    steady = Measurement("eager-fp32", "eager-fp32", ((0.01,) * 50,) * 10)
    slower = replace(steady, rounds=tuple((0.01 * (1 + 0.02 * index),) * 50 for index in range(10)))
    assert summarize(steady, steady, Protocol(threads=1)).stable
    latency = summarize(slower, slower, Protocol(threads=1))
    assert (latency.stable, latency.speedup) == (False, 1.0)


def test_a_summary_tells_each_start_and_the_range_of_start_ups():
    one = Measurement("x", "onnx-fp32", ((0.002,),) * 3 + ((0.003,),) * 2, starts=(3, 2), cold_starts_s=(0.5, 0.7))
    latency = summarize(replace(one, cold_start_s=0.6), None, Protocol(threads=1))
    assert latency.starts_ms == pytest.approx((2, 3))
    assert (latency.cold_start_s, latency.cold_start_spread_s) == (0.6, (0.5, 0.7))
