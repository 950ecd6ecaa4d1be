import itertools
import math

import pytest

from benchmarks.measure.control_loop import ControlLoop, run
from benchmarks.measure.messages import Pace
from benchmarks.measure.pacing import keep_pace
from benchmarks.measure.protocol import Candidate, Protocol


class Clock:
    """Time that passes only where somebody sleeps or works."""

    now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def paced(seconds_of_call, pace):
    """Keep pace with an action that takes ``seconds_of_call(number)``, counted from 1."""
    clock, calls = Clock(), itertools.count(1)
    return keep_pace(lambda: clock.sleep(seconds_of_call(next(calls))), pace, clock, clock.sleep)


def test_a_runner_that_takes_5_ms_longer_on_every_hundredth_call_misses_a_5_ms_deadline_as_often():
    ticks = paced(lambda call: 0.001 + 0.005 * (call % 100 == 0), Pace(rate_hz=100, seconds=9.01))
    assert len(ticks.latencies) == 901
    loop = ControlLoop("x", 100, 5.0, tuple(1000 * latency for latency in ticks.latencies))
    assert loop.missed == 9
    assert loop.worst_ms == pytest.approx(6)


def test_a_late_tick_makes_the_following_ones_late():
    ticks = paced(lambda call: 0.09 if call == 3 else 0.001, Pace(rate_hz=50, seconds=0.3))
    assert len(ticks.latencies) == len(ticks.starts) == 15
    # The third takes until 70 ms after the fourth was due: it begins late, and the ones after it catch up.
    assert ticks.starts[:8] == pytest.approx((0, 0, 0, 0.07, 0.051, 0.032, 0.013, 0), abs=1e-9)
    # A loop timed from where each tick happened to begin would have seen one slow tick only.
    assert ticks.latencies[2:8] == pytest.approx((0.09, 0.071, 0.052, 0.033, 0.014, 0.001), abs=1e-9)


def test_after_each_idle_gap_the_first_action_is_timed_alone():
    ticks = paced(lambda call: 0.004, Pace(1000, 0.002, gaps=((0.05, 3), (0.1, 1))))
    assert ticks.after_idle == {"0.05": pytest.approx((0.004,) * 3), "0.1": pytest.approx((0.004,))}


def test_with_the_system_s_clock_no_tick_begins_before_it_is_due():
    ticks = keep_pace(lambda: None, Pace(rate_hz=200, seconds=0.05, gaps=((0.01, 1),)))
    assert min(ticks.starts) >= 0
    assert min(ticks.latencies + ticks.after_idle["0.01"]) > 0


def test_jitter_is_the_spread_of_latencies_and_nothing_is_known_without_ticks():
    assert ControlLoop("x", 50, 20, (2.0, 4.0)).jitter_ms == pytest.approx(1.0)
    empty = ControlLoop("x", 50, 20, error="died")
    assert empty.missed == 0
    assert math.isnan(empty.worst_ms)
    assert math.isnan(empty.jitter_ms)


def test_each_variant_runs_its_loop_alone_and_one_that_cannot_start_says_why(small_bundle, tmp_path):
    begun = []
    candidates = [
        Candidate("onnx-int8", small_bundle.path, "onnx-int8"),
        Candidate("nowhere", tmp_path, "onnx-int8"),
    ]
    protocol = Protocol(1, warmup_calls=5, warmup_seconds=0.05)
    loops = list(run(candidates, protocol, Pace(50, 0.5, gaps=((0.1, 2),)), 20.0, begun.append))
    assert begun == [loop.name for loop in loops] == ["onnx-int8", "nowhere"]
    assert len(loops[0].latencies_ms) == len(loops[0].starts_ms) == 25
    assert all(latency > start for latency, start in zip(loops[0].latencies_ms, loops[0].starts_ms, strict=True))
    assert len(loops[0].after_idle_ms["0.1"]) == 2
    assert "is not a bundle" in loops[1].error
    assert loops[1].latencies_ms == ()
