import math
import time

import pytest

from benchmarks.measure.control_loop import ControlLoop, run
from benchmarks.measure.messages import Pace
from benchmarks.measure.pacing import keep_pace
from benchmarks.measure.protocol import Candidate, Protocol


def test_a_runner_that_sleeps_5_ms_on_every_hundredth_call_misses_a_5_ms_deadline_as_often(small_bundle):
    steps = list(small_bundle.golden().steps())
    calls = 0
    with small_bundle.runner("onnx-int8") as runner:

        def act():
            nonlocal calls
            calls += 1
            runner.act(steps[calls % len(steps)][1])
            if calls % 100 == 0:
                time.sleep(0.005)

        for attempt in range(6):  # a machine with other work misses deadlines of its own
            calls = 0
            for _ in range(99):  # warm-up; the next call is the hundredth
                act()
            ticks = keep_pace(act, Pace(rate_hz=100, seconds=8.01))
            assert len(ticks.latencies) == 801
            loop = ControlLoop("x", 100, 5.0, tuple(1000 * latency for latency in ticks.latencies))
            assert loop.missed >= 9  # never fewer than were planted
            assert loop.worst_ms > 5
            if loop.missed <= 10:
                break
            time.sleep(5 * attempt)
    assert loop.missed <= 10, sorted(loop.latencies_ms)[-20:]


def test_a_late_tick_makes_the_following_ones_late():
    calls = 0

    def act():
        nonlocal calls
        calls += 1
        time.sleep(0.09 if calls == 3 else 0.001)

    ticks = keep_pace(act, Pace(rate_hz=50, seconds=0.3))
    assert len(ticks.latencies) == len(ticks.starts) == 15
    # The third takes until 70 ms after the fourth was due: it begins late, and the ones after it catch up.
    assert [start > 0.01 for start in ticks.starts[:8]] == [False, False, False, True, True, True, True, False]
    assert ticks.starts[3] == pytest.approx(0.07, abs=0.01)
    assert ticks.latencies[3] > 0.07
    # A loop timed from where each tick happened to begin would have seen one slow tick only.
    assert sum(latency > 0.02 for latency in ticks.latencies) >= 4


def test_after_each_idle_gap_the_first_action_is_timed_alone():
    ticks = keep_pace(lambda: time.sleep(0.004), Pace(1000, 0.002, gaps=((0.05, 3), (0.1, 1))))
    assert {gap: len(latencies) for gap, latencies in ticks.after_idle.items()} == {"0.05": 3, "0.1": 1}
    assert all(0.004 <= latency < 0.04 for latencies in ticks.after_idle.values() for latency in latencies)


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
