import sys

import numpy as np
import pytest

from benchmarks.measure.alone.soak import Soak, SoakInterval, interval_seconds, run, throttled
from benchmarks.measure.protocol import Candidate, Protocol, usable_cores

SHORT = Protocol(1, warmup_calls=2, warmup_seconds=0.01, cores=usable_cores()[:1])

LEAKING = """
import sys, time
from benchmarks.measure import worker
from benchmarks.measure.messages import Reply, Request
from xfer.files import from_json

def serve(assignment, requests, replies):
    kept = []
    worker.send(replies, Reply(cores=worker.bound_cores()))
    def call():
        began = time.perf_counter_ns()
        kept.append(bytearray(b"x" * 100_000))
        time.sleep(0.0005 + 0.00002 * len(kept))
        if len(kept) == {dies_after}:
            sys.exit("no memory is left")
        return time.perf_counter_ns() - began
    for line in requests:
        worker.send(replies, Reply("", worker.take_turn(call, from_json(line, Request).turn)))

sys.exit(worker.main(serve))
"""


def leaking(tmp_path, dies_after=0):
    """A candidate whose process keeps 100 kB a call, and takes 20 us more for each call before."""
    path = tmp_path / "leaking.py"
    path.write_text(LEAKING.replace("{dies_after}", str(dies_after)))
    return Candidate("leaking", tmp_path, "onnx-fp32", worker=(sys.executable, str(path)))


def test_growth_of_memory_and_drift_of_a_leaking_process_are_found(tmp_path):
    *_, found = run(leaking(tmp_path), SHORT, minutes=4 / 60)
    calls = sum(one.calls for one in found.intervals)
    assert found.ended == ""
    assert found.seconds >= 4
    assert found.memory_growth.shown
    assert found.memory_growth.value / calls == pytest.approx(100_000, rel=0.5)
    assert found.drift.shown
    assert found.drift.value > 0.1
    assert all(one.max_ms >= one.p50_ms > 0.5 for one in found.intervals)


def test_a_process_that_dies_leaves_what_it_gave(tmp_path):
    *_, last, found = run(leaking(tmp_path, dies_after=250), SHORT, minutes=1)
    assert found.intervals == last.intervals != ()
    assert "no memory is left" in found.ended
    assert found.ended.startswith(f"it failed after {found.seconds:,.0f} s")


def made_up(values, memory=None, seconds=2.0):
    each = enumerate(values, 1)
    memory = [10**8] * len(values) if memory is None else memory
    return Soak(
        "x", 1, tuple(SoakInterval(seconds * i, 100, v, 2 * v, int(m)) for (i, v), m in zip(each, memory, strict=True))
    )


def test_noise_of_a_steady_variant_is_no_drift_and_no_leak_in_19_of_20_soaks():
    random = np.random.default_rng(0)
    shown = 0
    for _ in range(100):
        one = made_up(5 + 0.2 * random.gamma(2, 1, 100), 1e8 + 4096 * random.integers(0, 50, 100))
        shown += one.drift.shown + one.memory_growth.shown
    assert shown <= 20  # of 200, at 5 % each


def test_what_grows_by_two_per_cent_is_found_in_noise():
    random = np.random.default_rng(1)
    one = made_up(5 * np.linspace(1, 1.02, 300) + random.normal(0, 0.05, 300))
    assert one.drift.shown
    assert one.drift.low < 0.02 < one.drift.high


def test_memory_that_is_filled_at_the_beginning_is_no_leak():
    memory = [10**8 + min(i, 8) * 10**6 for i in range(100)]
    assert not made_up([5.0] * 100, memory).memory_growth.shown


def test_too_few_intervals_tell_nothing():
    assert made_up([5.0] * 9).drift is None
    assert made_up([]).memory_growth is None
    assert made_up([]).seconds == 0.0


@pytest.mark.parametrize(("minutes", "seconds"), [(0.1, 0.25), (10, 2.0), (600, 10.0)])
def test_there_are_about_300_intervals_of_a_bearable_length(minutes, seconds):
    assert interval_seconds(minutes) == seconds


def test_throttling_is_read_from_both_versions_of_control_groups(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n")
    (tmp_path / "sys/fs/cgroup/a").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/a/cpu.stat").write_text("usage_usec 9\nnr_throttled 2\nthrottled_usec 1500000\n")
    assert throttled(tmp_path) == 1.5
    (tmp_path / "sys/fs/cgroup/a/cpu.stat").write_text("nr_throttled 2\nthrottled_time 2500000000\n")
    assert throttled(tmp_path) == 2.5
