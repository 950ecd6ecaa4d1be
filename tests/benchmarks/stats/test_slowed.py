import numpy as np
import pytest

from benchmarks.measure import kernel
from benchmarks.measure.protocol import Measurement
from benchmarks.stats.slowed import FALSE_ALARMS, slowed

DEFAULT = (8, 5, 13)
"""Starts, rounds of each, turns of each round."""


def bench(rng, shape=DEFAULT, deviation=0.1, slower=0.0, of=lambda start, index: False):
    times = rng.normal(0, 0.025, (shape[0], 1, 1)) + rng.normal(0, deviation, shape)
    for start in range(shape[0]):
        for index in range(shape[1]):
            times[start, index] += np.log1p(slower) * of(start, index)
    return np.exp(times).tolist()


def test_of_undisturbed_benches_at_most_5_percent_have_a_round_that_is_called_slowed():
    rng = np.random.default_rng(3)
    called = [any(slowed(bench(rng))) for _ in range(40)]
    called += [any(slowed(np.exp(0.1 * rng.standard_t(2, DEFAULT)).tolist())) for _ in range(40)]
    # 4 of 80 are expected; more than 10 would happen once in 400.
    assert sum(called) <= 10
    assert FALSE_ALARMS == 0.05


def test_a_round_that_a_neighbor_slows_by_a_fifth_is_found_and_no_other():
    rng = np.random.default_rng(4)
    found = slowed(bench(rng, deviation=0.05, slower=0.2, of=lambda start, index: start % 2 == 0 and index == 3))
    assert [index for index, one in enumerate(found) if one] == [3, 13, 23, 33]
    assert {type(one) for one in found} == {bool}


def test_what_moves_by_less_than_what_counts_as_unstable_is_not_called_slowed():
    rng = np.random.default_rng(5)
    assert not any(slowed(bench(rng, deviation=0.001, slower=0.03, of=lambda start, index: index == 3)))
    assert sum(slowed(bench(rng, deviation=0.001, slower=0.08, of=lambda start, index: index == 3))) == 8


def test_where_a_process_lies_in_memory_is_no_neighbor():
    times = np.ones(DEFAULT)
    times[3] *= 1.3  # one start, as a whole
    assert not any(slowed(times.tolist()))


@pytest.mark.parametrize("starts", [[], [[]], [[[1.0, 2.0]]], [[[1.0]], [[2.0]]], [[[1.0, 1.0], [1.0]], [[1.0]]]])
def test_a_bench_that_was_interrupted_early_says_nothing(starts):
    assert not any(slowed(starts))
    assert len(slowed(starts)) == sum(map(len, starts))


def test_the_reference_kernel_s_rounds_are_judged_by_the_medians_of_its_turns():
    times = np.ones(DEFAULT)
    times[1, 2] *= 1.5
    rounds = [tuple(call for turn in one for call in (turn, turn, 40 * turn)) for start in times for one in start]
    measured = Measurement(kernel.NAME, "", tuple(rounds), turns=((3,) * 13,) * 40, starts=(5,) * 8)
    assert [index for index, one in enumerate(kernel.slowed_rounds(measured)) if one] == [7]
    assert kernel.slowed_rounds(None) == ()
    assert kernel.slowed_rounds(Measurement(kernel.NAME, "", tuple(rounds))) == ()
