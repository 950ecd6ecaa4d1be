import math
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.bench import blind
from benchmarks.claims.interference import Load, fewer
from benchmarks.measure import kernel
from benchmarks.measure.interference import (
    BLIND,
    LIMIT,
    RESOLUTION_S,
    TICK_S,
    Interference,
    Meter,
    Reading,
    _descendants,
    interference,
    threads,
    throttled,
)
from benchmarks.measure.latency import measure
from benchmarks.measure.messages import Assignment, Turn
from benchmarks.measure.protocol import Candidate, Measurement, full, quick, usable_cores
from benchmarks.measure.worker_process import WorkerProcess
from benchmarks.report.rows import summarize

THREADS = min(2, len(usable_cores()))
FORMS = {"default": full(1), "quick": quick(1), "two threads": full(2)}


@contextmanager
def half_of_the_cores_loaded():
    """One of two cores, as somebody's forgotten process would load it: the system decides where it runs."""
    with ExitStack() as stack:
        for _ in range(max(1, len(usable_cores()) // 2)):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


def put_before_others(pid, priority):
    """Let the system run a process of one thread before all others; returns whether that is allowed."""
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return False
    return True


def round_of(form, waits=(), stolen=0.0, throttled=0.0):
    """A round whose threads wait for some share of each turn, and whose core the hypervisor takes a share of."""
    protocol = FORMS[form]
    seconds = protocol.lead_in_seconds + protocol.turn.seconds
    turns = []
    for index in range(protocol.passes):
        moment = 3 * index * seconds  # two others have their turns in between
        ends = moment + seconds
        steals = [[math.floor(stolen * at / TICK_S) * TICK_S] for at in (moment, ends)]
        at_begin, at_end = (
            {7 + n: 5.0 + index * 0.1 + share * at for n, share in enumerate(waits)} for at in (0, seconds)
        )
        turns.append(
            (
                Reading(moment, [0.0], steals[0], 0.0, at_begin, {7: 3}, throttled * moment),
                Reading(ends, [0.0], steals[1], 0.0, at_end, {7: 4}, throttled * ends),
            )
        )
    return interference(turns, (0,), (0,), protocol.passes * seconds)


@pytest.mark.parametrize("form", FORMS)
def test_a_load_that_takes_more_than_5_percent_of_the_time_marks_a_round(form):
    others = [0.0] * (form == "two threads")
    assert not round_of(form, [0.04, *others]).disturbed
    assert round_of(form, [0.06, *others]).disturbed
    assert round_of(form, [0.1, *others]).waited == pytest.approx(0.1)


@pytest.mark.parametrize("form", FORMS)
def test_what_many_threads_wait_a_little_when_they_wake_is_not_added_up(form):
    found = round_of(form, [0.02] * 8)
    assert found.waited == pytest.approx(0.02)
    assert not found.disturbed


@pytest.mark.parametrize("form", FORMS)
def test_a_quota_that_is_used_up_marks_a_round(form):
    assert round_of(form, throttled=0.06).disturbed
    assert not round_of(form, throttled=0.04).disturbed


def test_what_the_hypervisor_takes_is_rounded_once_a_round_and_never_marked_for_rounding():
    for form, marked in (("default", 0.07), ("quick", 0.14)):
        assert round_of(form, stolen=marked).disturbed, form
        assert not round_of(form, stolen=0.049).disturbed
    assert round_of("default", stolen=0.5).steal == pytest.approx(0.5, abs=0.02)


def test_of_a_worker_that_mostly_sleeps_what_counts_is_the_time_at_work():
    """A loop of 10 s whose ticks take 2 s in all, and are kept waiting for 0.2 s of them."""
    begin = Reading(0.0, [0.0], [0.0], 0.0, {1: 3.0}, {}, 1.0)
    end = Reading(10.0, [2.0], [0.0], 2.0, {1: 3.2}, {}, 1.2)
    found = interference([(begin, end)], (0,), (0,), 2.0)
    assert (found.waited, found.throttled) == (pytest.approx(0.1), pytest.approx(0.1))
    asleep = interference([(begin, replace(end, waits={1: 3.0}, throttled=1.0))], (0,), (0,), 0.0)
    assert not asleep.disturbed


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
    end = Reading(20.0, working=[13.0, 13.0], stolen=[0.5, 2.0], ours=11.0)
    found = interference([(begin, end)], (0, 1), (0, 1), 10.0)
    # Of 20 s on two cores 14 were worked, 8 of them by us; 1 s of the second was stolen.
    assert found.others == pytest.approx((6 - RESOLUTION_S) / 20)
    assert found.steal == pytest.approx((1 - TICK_S) / 10)
    assert found.waited is None
    assert found.preempted is None


def test_of_the_bound_cores_alone_the_others_share_is_their_own():
    begin = Reading(0.0, working=[0.0, 0.0], stolen=[0.0, 0.0], ours=0.0)
    end = Reading(1.0, working=[0.0, 1.0], stolen=[0.0, 0.0], ours=0.6)
    assert interference([(begin, end)], (0, 1), (1,), 1.0).others == pytest.approx(0.4 - RESOLUTION_S)


def test_less_than_the_kernel_s_ticks_resolve_is_no_evidence():
    begin = Reading(0.0, working=[0.0], stolen=[0.0], ours=0.0)
    end = Reading(0.05, [0.03], [TICK_S], ours=0.02)
    found = interference([(begin, end)], (0,), (0,), 1.0)
    assert (found.others, found.steal) == (0.0, 0.0)


def test_short_turns_are_added_up_and_what_lies_between_them_is_nobody_s():
    """Four turns of 50 ms each, in which another process works for 30 ms; between them, it works all the time."""
    moments = [(index * 1.0, index * 1.0 + 0.05) for index in range(4)]
    turns = [
        (Reading(a, [a], [0.0], 0.0, {1: a}), Reading(b, [a + 0.03], [0.0], 0.0, {1: a + 0.03})) for a, b in moments
    ]
    found = interference(turns, (0,), (0,), 0.2)
    assert found.others == pytest.approx((4 * 0.03 - 2 * RESOLUTION_S) / (4 * 0.05))
    assert found.waited == pytest.approx(0.03 / 0.05)


def test_daemons_do_not_disturb_and_a_busy_process_or_a_greedy_neighbor_does():
    assert not Interference(others=0.02, steal=0.01, waited=0.01).disturbed
    assert not Interference(LIMIT, LIMIT, waited=LIMIT, throttled=LIMIT).disturbed
    assert Interference(others=0.25, steal=0.0).disturbed
    assert Interference(others=0.0, steal=0.1).disturbed
    assert Interference(0.0, 0.0, waited=0.06).disturbed
    assert Interference(0.0, 0.0, throttled=0.06).disturbed


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def status(preempted):
    return f"Name:\tpython\nvoluntary_ctxt_switches:\t88\nnonvoluntary_ctxt_switches:\t{preempted}\n"


def test_each_thread_of_a_worker_tells_what_it_waited_for_and_how_often_it_was_preempted(tmp_path):
    tasks = "proc/42/task"
    root = write(
        tmp_path,
        {
            f"{tasks}/42/schedstat": "500000000 30000000 12\n",
            f"{tasks}/42/status": status(3),
            f"{tasks}/43/schedstat": "100000000 2000000 7\n",
            f"{tasks}/43/status": status(1),
            f"{tasks}/44/comm": "ends while it is read\n",
        },
    )
    assert threads(42, root) == ({42: 0.03, 43: 0.002}, {42: 3, 43: 1})


def test_a_thread_that_ends_takes_its_count_along_and_one_with_its_number_counts_from_zero():
    def turn(before, after):
        return Reading(0.0, [0.0], [0.0], 0.0, before), Reading(1.0, [0.0], [0.0], 0.0, after)

    for before, after, waited in (
        ({1: 5.0, 2: 9.0}, {1: 5.1}, 0.1),
        ({1: 5.0}, {1: 5.0, 3: 0.2}, 0.2),
        ({1: 5.0, 2: 9.0}, {1: 5.0, 2: 0.3}, 0.3),
        ({1: 5.0}, {}, 0.0),
        ({1: 5.0}, None, 0.0),
    ):
        assert interference([turn(before, after)], (0,), (0,), 1.0).waited == pytest.approx(waited), after


@pytest.mark.parametrize("text", [None, "0 0 0\n"])
def test_a_kernel_that_does_not_count_waits_says_so_and_ticks_are_left(tmp_path, text):
    files = {"proc/42/task/42/status": status(3)} | ({"proc/42/task/42/schedstat": text} if text else {})
    waits, preempted = threads(42, write(tmp_path, files))
    assert (waits, preempted) == (None, {42: 3})
    begin, end = Reading(0.0, [0.0], [0.0], 0.0, waits, {42: 3}), Reading(1.0, [1.0], [0.0], 0.5, waits, {42: 9})
    found = interference([(begin, end)], (0,), (0,), 1.0)
    assert (found.waited, found.preempted) == (None, 6)
    assert found.disturbed


def test_a_bench_says_in_one_line_where_waits_are_not_counted():
    told, not_told = (Measurement("x", "x", disturbances=(Interference(0.0, 0.0, waited=w),)) for w in (0.0, None))
    assert blind([told, Measurement("died", "died")]) == []
    assert blind([told, not_told, not_told]) == [BLIND]
    assert "\n" not in BLIND


def test_a_process_that_has_ended_has_nothing_to_tell(tmp_path):
    assert threads(42, tmp_path) == (None, {})


def test_throttling_is_read_of_every_control_group_of_either_version(tmp_path):
    first = write(
        tmp_path / "1",
        {
            "proc/self/cgroup": "4:memory:/other\n2:cpu,cpuacct:/a/b\n",
            "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.stat": "nr_periods 11\nnr_throttled 10\nthrottled_time 546398638\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 1000000000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
        },
    )
    (first / "sys/fs/cgroup/cpu").symlink_to("cpu,cpuacct")  # one group under two names
    assert throttled(first) == pytest.approx(1.546398638)
    second = write(
        tmp_path / "2",
        {
            "proc/self/cgroup": "0::/user.slice/x.scope\n",
            "sys/fs/cgroup/user.slice/x.scope/cpu.stat": "usage_usec 9\nnr_throttled 2\nthrottled_usec 250000\n",
            "sys/fs/cgroup/user.slice/cpu.stat": "usage_usec 9\nnr_throttled 0\nthrottled_usec 0\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 100\n",
        },
    )
    assert throttled(second) == pytest.approx(0.25)
    assert throttled(tmp_path / "neither") == 0.0


@pytest.mark.timing
@pytest.mark.parametrize("form", ["default", "quick"])
def test_a_process_that_takes_10_percent_of_the_bound_core_marks_the_bench(form):
    protocol = replace(
        fewer(FORMS[form], {"default": 5, "quick": 15}[form]), warmup_seconds=0.1, warmup_limit_seconds=0.1
    )
    with Load(0.01, 0.1).on(protocol.bound[0]) as pid:
        put_before_others(pid, 20)
        (found,) = measure([kernel.candidate()], protocol).values()
    waits = [one.waited for one in found.disturbances]
    latency = summarize(found, None, protocol)
    assert np.mean(waits) > 0.07, waits
    assert latency.disturbed_rounds >= 0.6 * latency.rounds, waits


@pytest.mark.timing
def test_without_a_load_no_round_is_marked_for_what_its_process_waited():
    """The worker runs before all others, where that is allowed; else the core has to be quiet for a while."""
    protocol = quick(1)
    with WorkerProcess(kernel.candidate().assignment(protocol), kernel.candidate().worker) as worker:
        ahead = put_before_others(worker.pid, 10)
        worker.turn(Turn(5, 0.1))
        meter = Meter(worker.pid, usable_cores(), worker.ready.cores)
        found = []
        for _ in range(20):
            for _ in range(protocol.passes):
                time.sleep(0.03)  # the system gives the others 5 % of each second, at the latest at its end
                meter.begin()
                worker.turn(protocol.turn)
                meter.end()
            found.append(meter.disturbance())
    if not ahead and max(one.others for one in found) > 0:
        pytest.skip("other processes use this core, and giving one of ours precedence takes CAP_SYS_NICE")
    assert [one.waited for one in found if one.waited is None or one.waited > LIMIT] == []


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
