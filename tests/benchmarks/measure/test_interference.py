import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.measure.interference import (
    MAX_OTHERS,
    MAX_STEAL,
    RESOLUTION_S,
    Interference,
    Meter,
    Reading,
    _descendants,
    shares,
)
from benchmarks.measure.latency import measure
from benchmarks.measure.messages import Assignment, Turn
from benchmarks.measure.protocol import Candidate, quick, usable_cores
from benchmarks.measure.worker_process import WorkerProcess
from benchmarks.report.rows import summarize

THREADS = min(2, len(usable_cores()))


@contextmanager
def half_of_the_cores_loaded():
    """One of two cores, as somebody's forgotten process would load it: the system decides where it runs."""
    with ExitStack() as stack:
        for _ in range(max(1, len(usable_cores()) // 2)):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


def test_children_of_a_worker_are_found_without_asking_every_process_on_the_machine(monkeypatch):
    script = "sleep 60 & sh -c 'sleep 60 & wait' & wait"
    with subprocess.Popen(["sh", "-c", script]) as process:
        worker = psutil.Process(process.pid)
        while len(worker.children(recursive=True)) < 3:
            time.sleep(0.01)
        expected = {child.pid for child in worker.children(recursive=True)}
        if list(Path(f"/proc/{process.pid}/task").glob("*/children")):
            monkeypatch.setattr(psutil.Process, "children", None)
        found = _descendants(worker)
        assert {child.pid for child in found} == expected
        for one in [worker, *found]:
            one.kill()


def test_what_is_neither_the_worker_s_nor_ours_is_others():
    begin = Reading(10.0, working=[5.0, 7.0], stolen=[0.0, 1.0], ours=3.0)
    end = Reading(20.0, working=[13.0, 13.0], stolen=[0.5, 1.5], ours=11.0)
    others, steal = shares([(begin, end)], (0, 1))
    # Of 20 s on two cores 14 were worked, 8 of them by us; 1 s was stolen.
    assert others == pytest.approx((6 - RESOLUTION_S) / 20)
    assert steal == pytest.approx((1 - RESOLUTION_S) / 20)


def test_of_the_bound_cores_alone_the_others_share_is_their_own():
    begin = Reading(0.0, working=[0.0, 0.0], stolen=[0.0, 0.0], ours=0.0)
    end = Reading(1.0, working=[0.0, 1.0], stolen=[0.0, 0.0], ours=0.6)
    assert shares([(begin, end)], (1,))[0] == pytest.approx(0.4 - RESOLUTION_S)


def test_less_than_the_kernel_resolves_is_no_evidence():
    begin = Reading(0.0, working=[0.0], stolen=[0.0], ours=0.0)
    end = Reading(0.05, [0.03], [0.02], ours=0.02)
    assert shares([(begin, end)], (0,)) == (0.0, 0.0)


def test_short_turns_are_added_up_and_what_lies_between_them_is_nobody_s():
    """Four turns of 50 ms each, in which another process works for 30 ms; between them, it works all the time."""
    moments = [(index * 1.0, index * 1.0 + 0.05) for index in range(4)]
    turns = [(Reading(a, [a], [0.0], ours=0.0), Reading(b, [a + 0.03], [0.0], ours=0.0)) for a, b in moments]
    assert shares(turns, (0,))[0] == pytest.approx((4 * 0.03 - 2 * RESOLUTION_S) / (4 * 0.05))


def test_daemons_do_not_disturb_and_a_busy_process_or_a_greedy_neighbor_does():
    assert not Interference(others=0.02, steal=0.01).disturbed
    assert not Interference(MAX_OTHERS, MAX_STEAL).disturbed
    assert Interference(others=0.25, steal=0.0).disturbed
    assert Interference(others=0.0, steal=0.1).disturbed


@pytest.mark.timing
def test_the_worker_s_own_work_is_not_others(small_bundle):
    with WorkerProcess(Assignment(str(small_bundle.path), "onnx-fp32", THREADS)) as worker:
        worker.turn(Turn(20, 0.2))
        meter = Meter(worker.pid, usable_cores(), worker.ready.cores)
        quiet = []
        for _ in range(5):
            meter.begin()
            worker.turn(Turn(20, 0.5))
            meter.end()
            quiet.append(meter.disturbance())
        with half_of_the_cores_loaded():
            meter.begin()
            worker.turn(Turn(20, 1.0))
            meter.end()
            loaded = meter.disturbance()
    # It works on its cores all the time: counted as others', that would be nearly all. How much others really take
    # depends on who else uses this machine.
    assert min(d.others for d in quiet) < 0.6
    assert loaded.others > 0.2
    assert loaded.frequency_mhz is None or loaded.frequency_mhz > 100
    assert loaded.gpu_clock_mhz is None


@pytest.mark.timing
def test_with_half_of_the_cores_loaded_every_round_of_every_variant_is_marked_and_none_is_dropped(small_bundle):
    candidates = [Candidate(name, small_bundle.path, name) for name in ("eager-fp32", "onnx-int8")]
    # The shortest turns that a bench has, after less of a warm-up.
    protocol = replace(quick(THREADS), warmup_seconds=0.1, warmup_limit_seconds=0.2)
    with half_of_the_cores_loaded():
        found = measure(candidates, protocol)
    for measurement in found.values():
        assert measurement.error == ""
        assert len(measurement.rounds) == len(measurement.disturbances) == protocol.rounds
        latency = summarize(measurement, None, protocol)
        assert latency.rounds == latency.disturbed_rounds == protocol.rounds, measurement.disturbances
        assert latency.samples >= protocol.calls
