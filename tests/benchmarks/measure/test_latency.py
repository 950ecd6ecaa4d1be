import shutil
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from benchmarks.measure import kernel, latency
from benchmarks.measure.latency import measure, steps_per_candidate
from benchmarks.measure.messages import Assignment, Turn
from benchmarks.measure.protocol import Candidate, Protocol, full, quick, strict, usable_cores
from benchmarks.measure.worker import take_turn
from benchmarks.measure.worker_process import WorkerError, WorkerProcess

SHORT = Protocol(
    1,
    rounds=5,
    calls=20,
    seconds=0.01,
    warmup_calls=5,
    warmup_seconds=0.01,
    warmup_limit_seconds=0.1,
    starts=2,
)


def test_the_full_protocol_has_eight_starts_and_turns_enough_for_a_bound_of_p99():
    protocol = full(2)
    assert (protocol.calls, protocol.seconds, protocol.rounds) == (1024, 10.0, 40)
    assert (protocol.quick, protocol.strict) == (False, False)
    assert protocol.starts == 8
    assert protocol.rounds * protocol.passes >= 500
    assert full(2, 7).rounds * full(2, 7).passes >= 500
    assert protocol.turn.lead_in_seconds >= 0.01  # a clock needs as long to rise
    # Rounded up, so that the rounds together never fall short.
    assert protocol.turn.calls * 40 * protocol.passes >= 1024
    assert full(2, 7).turn.calls * 7 * full(2, 7).passes >= 1024


def test_the_quick_protocol_is_marked():
    assert (quick(2, 5).calls, quick(2, 5).seconds, quick(2, 5).quick) == (256, 2.0, True)
    assert (quick(2).starts, quick(2).rounds * quick(2).passes < 483) == (2, True)


@pytest.mark.parametrize("protocol", [full(1), full(1, 13), full(1, 5), quick(1), strict(1)])
def test_starts_share_all_rounds_out(protocol):
    shares = [protocol.rounds_of(start) for start in range(protocol.starts)]
    assert [index for share in shares for index in share] == list(range(protocol.rounds))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(shares)


def test_the_strict_protocol_runs_600_s_and_gives_the_999th_permille():
    protocol = strict(2)
    assert protocol.strict
    assert not protocol.quick
    assert protocol.turn.seconds * protocol.rounds * protocol.passes == pytest.approx(600)
    assert protocol.turn.calls * protocol.rounds * protocol.passes >= 6636
    assert protocol.rounds > full(2).rounds


def test_variants_take_turns_in_rounds_and_a_dead_one_leaves_the_others_their_samples(small_bundle, tmp_path):
    truncated = tmp_path / "truncated.bundle"
    shutil.copytree(small_bundle.path, truncated)
    graph = next(truncated.glob("variants/onnx-int8-*/policy.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1])
    candidates = [
        Candidate("eager-fp32", small_bundle.path, "eager-fp32"),
        Candidate("killed", small_bundle.path, "onnx-int8"),
        Candidate("truncated", truncated, "onnx-int8"),
        Candidate("onnx-fp32", small_bundle.path, "onnx-fp32"),
    ]
    before = set(psutil.Process().children())
    steps, whole_rounds = [], []

    def on_round(done, measurements):
        whole_rounds.append((done, len(measurements["onnx-fp32"].rounds), len(measurements["killed"].rounds)))

    def on_step(name, stage):
        steps.append((stage, name))
        if (name, stage) == ("killed", "round 3"):
            children = [p for p in psutil.Process().children() if '"onnx-int8"' in " ".join(p.cmdline())]
            assert len(children) == 1
            children[0].kill()

    found = measure(candidates, SHORT, on_step, on_round)
    names = [candidate.name for candidate in candidates]

    stages = ["start 1", "round 1", "round 2", "start 2", "round 3", "round 4", "round 5"]
    grouped = [(stage, [name for _, name in group]) for stage, group in groupby(steps, key=lambda step: step[0])]
    assert [stage for stage, _ in grouped] == stages
    assert all(sorted(group) == sorted(names) for _, group in grouped)
    assert len(steps) == len(names) * steps_per_candidate(SHORT)

    for name in ("eager-fp32", "onnx-fp32"):
        assert found[name].error == ""
        assert [len(r) >= SHORT.turn.calls for r in found[name].rounds] == [True] * 5
        assert min(min(r) for r in found[name].rounds) > 1e-5
        assert found[name].warmup_calls >= SHORT.warmup_calls
        assert len(found[name].cores) == 1
        assert len(found[name].disturbances) == 5
        assert found[name].starts == (2, 3)
        assert len(found[name].cold_starts_s) == len(found[name].start_medians()) == 2
        assert [len(turns) for turns in found[name].turns] == [SHORT.passes] * 5
        assert len(found[name].by_turn()) == 5 * SHORT.passes
        assert [len(rounds) for rounds in found[name].by_start()] == [2, 3]
    assert found["eager-fp32"].libraries["torch"]
    assert found["onnx-fp32"].libraries["onnxruntime"]
    # PyTorch alone is larger than ONNX Runtime with a policy.
    assert found["eager-fp32"].peak_memory_bytes > found["onnx-fp32"].peak_memory_bytes > 20e6
    assert found["eager-fp32"].cold_start_s > 0.2

    assert whole_rounds == [(1, 1, 1), (2, 2, 2), (3, 3, 2), (4, 4, 2), (5, 5, 2)]
    assert len(found["killed"].rounds) == len(found["killed"].disturbances) == 2
    assert "killed by SIGKILL" in found["killed"].error
    assert found["truncated"].rounds == ()
    assert "truncated or exchanged" in found["truncated"].error
    assert set(psutil.Process().children()) == before


@pytest.mark.parametrize("module", ["benchmarks.measure.worker", "benchmarks.measure.kernel"])
def test_a_worker_ends_without_taking_its_libraries_apart(small_bundle, module, tmp_path):
    left = tmp_path / "left"
    at_exit = f"import atexit, pathlib; atexit.register(pathlib.Path({str(left)!r}).touch); "
    program = f"{at_exit}import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    assignment = Assignment(str(small_bundle.path.resolve()), "onnx-fp32", 1)
    with WorkerProcess(assignment, (sys.executable, "-c", program)) as worker:
        assert len(worker.turn(Turn(3, 0)).seconds) == 3
        process = worker._process
    assert process.returncode == 0
    assert not left.exists()


@pytest.mark.parametrize(
    ("turn", "untimed", "timed"),
    [
        (Turn(calls=3, seconds=0.05), 0, 5),
        (Turn(calls=7, seconds=0.05, lead_in=2), 2, 7),
        (Turn(calls=1, seconds=0.0, lead_in=2, lead_in_seconds=0.04), 4, 1),
    ],
)
def test_a_turn_and_its_lead_in_last_until_both_floors_are_reached(turn, untimed, timed):
    calls = []

    def call():
        calls.append(10_000_000)  # ns
        return calls[-1]

    assert take_turn(call, turn) == (0.01,) * timed
    assert len(calls) == untimed + timed


def test_each_pass_has_an_order_of_its_own_that_the_seed_repeats(monkeypatch):
    def orders(seed):
        taken = []
        monkeypatch.setattr(latency._Run, "start", lambda run, stack: run.starts.append(0))
        monkeypatch.setattr(latency._Run, "take_turn", lambda run: taken.append(run.candidate.name))
        monkeypatch.setattr(latency._Run, "end_round", lambda run: None)
        candidates = [Candidate(name, Path(), "onnx-fp32") for name in "ABCD"]
        measure(candidates, replace(SHORT, seed=seed, passes=8))
        return ["".join(taken[begin : begin + 4]) for begin in range(0, len(taken), 4)]

    found = orders(0)
    assert all(sorted(one) == list("ABCD") for one in found)
    assert len(set(found)) > 10
    assert all(sum(one[place] == "A" for one in found) >= 4 for place in range(4))  # of 40: ten are expected
    assert orders(0) == found != orders(1)


def test_the_reference_kernel_takes_its_turns_beside_variants_and_imports_no_library(small_bundle):
    own = Candidate("onnx-int8", small_bundle.path, "onnx-int8")
    found = measure([own, kernel.candidate()], replace(SHORT, rounds=2))
    beside = found[kernel.NAME]
    assert (beside.error, beside.starts, own.name in found) == ("", (1, 1), True)
    assert min(min(round) for round in beside.rounds) > 1e-5
    assert set(beside.libraries) == {"kernel", "python"}


def test_a_worker_calls_until_both_floors_are_reached(small_bundle):
    with WorkerProcess(Assignment(str(small_bundle.path), "onnx-int8", 1)) as worker:
        assert len(worker.turn(Turn(calls=30, seconds=0, lead_in=3)).seconds) == 30
        assert sum(worker.turn(Turn(calls=1, seconds=0.2)).seconds) >= 0.2


@pytest.mark.skipif(len(usable_cores()) < 2, reason="needs two usable cores")
def test_a_variant_is_bound_to_the_cores_that_were_chosen(small_bundle):
    candidate = Candidate("onnx-int8", small_bundle.path, "onnx-int8")
    first, *_, last = usable_cores()
    assert candidate.assignment(Protocol(1)).cores == (last,)
    found = measure([candidate], replace(SHORT, cores=(first,)))
    assert found["onnx-int8"].cores == (first,)


def test_what_runs_on_a_gpu_is_known_by_its_name(tmp_path):
    names = (
        "onnx-fp32",
        "onnx-fp32@cuda",
        "eager-fp32@cuda",
        "tensorrt-fp16",
        "eager-fp32@channels_last",
        "onnx-fp32@tensorrt",
    )
    assert [Candidate(name, tmp_path, name).on_gpu for name in names] == [False, True, True, True, False, True]


def test_a_worker_uses_no_processor_time_outside_its_turn(small_bundle):
    with WorkerProcess(Assignment(str(small_bundle.path), "onnx-fp32", 2)) as worker:
        worker.turn(Turn(calls=10, seconds=0))
        process = psutil.Process(worker._process.pid)
        process.cpu_percent()
        assert process.cpu_percent(interval=0.3) < 1  # at once: nobody waits until its threads fall asleep
        assert process.status() == psutil.STATUS_STOPPED


def test_a_worker_that_does_not_exist_says_why_in_one_line(tmp_path: Path):
    with pytest.raises(WorkerError, match="is not a bundle"), WorkerProcess(Assignment(str(tmp_path), "x", 1)):
        pass


def test_peak_memory_is_the_worker_s_own_and_not_its_parent_s(small_bundle):
    ballast = bytearray(b"x") * 600_000_000
    with WorkerProcess(Assignment(str(small_bundle.path), "onnx-int8", 1)) as worker:
        assert worker.ready.peak_memory_bytes < 0.5 * len(ballast)
