import itertools
import math
import threading

import pytest

from benchmarks.measure.control_loop import ControlLoop, run, segments, steps_per_candidate
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


def test_late_ticks_are_dropped_if_asked_and_all_of_them_count_as_missed():
    slow = Pace(rate_hz=50, seconds=0.3, late="drop")
    ticks = paced(lambda call: 0.09 if call == 3 else 0.001, slow)
    # The third takes until 70 ms after the fourth was due: four fell due meanwhile. The next one is in time.
    assert (len(ticks.latencies), ticks.dropped) == (11, 4)
    assert ticks.starts == pytest.approx((0.0,) * 11, abs=1e-9)
    loop = ControlLoop("x", 50, 20.0, tuple(1000 * latency for latency in ticks.latencies), dropped=ticks.dropped)
    assert (loop.ticks, loop.missed) == (slow.ticks, 5)
    always = paced(lambda call: 0.05, slow)
    assert len(always.latencies) + always.dropped == 15
    assert always.dropped == 10


def test_lead_in_ticks_keep_the_pace_and_count_for_nothing():
    calls = itertools.count()
    ticks = paced(lambda call: [next(calls), 0.5 if call == 1 else 0.001][1], Pace(100, 0.05, lead_in=60))
    assert len(ticks.latencies) == 5
    assert next(calls) == 65
    assert ticks.latencies == pytest.approx((0.001,) * 5)
    assert ticks.idle == pytest.approx(5 * 0.009)


def test_the_gaps_alone_have_no_ticks():
    ticks = paced(lambda call: 0.004, Pace(50, 0, gaps=((0.1, 2),)))
    assert (ticks.latencies, ticks.after_idle) == ((), {"0.1": pytest.approx((0.004,) * 2)})


def test_what_threads_burn_between_ticks_is_counted_and_what_a_tick_takes_is_not():
    done = threading.Event()
    spinning = threading.Thread(target=lambda: done.wait(0) or [None for _ in iter(done.is_set, True)])
    quiet = keep_pace(lambda: sum(range(100_000)), Pace(50, 0.3))
    spinning.start()
    try:
        busy = keep_pace(lambda: None, Pace(50, 0.3))
    finally:
        done.set()
        spinning.join()
    assert quiet.idle_processor / quiet.idle < 0.1
    assert busy.idle_processor / busy.idle > 0.2  # a whole core, but for what others on this machine take of it


def test_loops_are_cut_into_segments_that_have_all_ticks():
    for rate, seconds in ((50, 60), (50, 0.5), (1000, 0.003), (3, 7)):
        pace = Pace(rate, seconds, gaps=((0.1, 2),))
        parts = segments(pace)
        assert sum(part.ticks for part in parts) == pace.ticks
        assert len(parts) == min(6, pace.ticks)
        assert {part.gaps for part in parts} == {()}


def test_variants_take_turns_at_segments_and_one_that_cannot_start_says_why(small_bundle, tmp_path):
    begun = []
    candidates = [
        Candidate("onnx-int8", small_bundle.path, "onnx-int8"),
        Candidate("nowhere", tmp_path, "onnx-int8"),
        Candidate("onnx-fp32", small_bundle.path, "onnx-fp32"),
    ]
    protocol, pace = Protocol(1, warmup_calls=5, warmup_seconds=0.05), Pace(50, 0.5, gaps=((0.1, 2),))
    *partial, loops = run(candidates, protocol, pace, 20.0, lambda name, stage: begun.append((name, stage)))
    assert [len(loops) for loops in partial] == [3] * 6
    assert len(begun) == 3 * steps_per_candidate(pace)
    taken = [name for name, stage in begun if "segment" in stage and name != "nowhere"]
    assert [set(taken[i : i + 2]) for i in range(0, 12, 2)] == [{"onnx-int8", "onnx-fp32"}] * 6
    assert len({tuple(taken[i : i + 2]) for i in range(0, 12, 2)}) == 2  # in either order
    assert [loop.name for loop in loops] == [candidate.name for candidate in candidates]
    for loop in (loops[0], loops[2]):
        assert len(loop.latencies_ms) == len(loop.starts_ms) == loop.ticks == sum(loop.segments) == 25
        assert all(latency > start for latency, start in zip(loop.latencies_ms, loop.starts_ms, strict=True))
        assert len(loop.after_idle_ms["0.1"]) == 2
        assert len(loop.disturbances) == len(loop.segments) == 6
        assert 0 <= loop.idle_cores < 1
        assert (loop.threads, loop.spin) == (1, False)
    assert "is not a bundle" in loops[1].error
    assert loops[1].latencies_ms == ()
