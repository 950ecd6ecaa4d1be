import itertools
import shutil
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from benchmarks.measure.latency import measure, steps_per_candidate
from benchmarks.measure.messages import Assignment, Turn
from benchmarks.measure.protocol import Candidate, Protocol, full, quick, strict, usable_cores
from benchmarks.measure.worker import _recorded, take_turn
from benchmarks.measure.worker_process import WorkerError, WorkerProcess

SHORT = Protocol(
    1,
    rounds=5,
    calls=20,
    seconds=0.01,
    warmup_calls=5,
    warmup_seconds=0.01,
    warmup_limit_seconds=0.1,
    pause_seconds=0.01,
)


def test_the_full_protocol_is_the_design_s():
    protocol = full(2)
    assert (protocol.calls, protocol.seconds, protocol.rounds) == (1024, 10.0, 40)
    assert (protocol.quick, protocol.strict) == (False, False)
    assert (protocol.warmup_calls, protocol.warmup_seconds) == (50, 2.0)
    # Rounded up, so that the rounds together never fall short.
    assert protocol.turn.calls * 40 * protocol.passes >= 1024
    assert full(2, 7).turn.calls * 7 * protocol.passes >= 1024


def test_the_quick_protocol_is_marked():
    assert (quick(2, 5).calls, quick(2, 5).seconds, quick(2, 5).quick) == (256, 2.0, True)


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

    stages = ["warm-up", *(f"round {i}" for i in range(1, 6)), "cold start"]
    assert [stage for stage, _ in groupby(steps, key=lambda step: step[0])] == stages
    assert [name for _, name in steps] == names * steps_per_candidate(SHORT)

    for name in ("eager-fp32", "onnx-fp32"):
        assert found[name].error == ""
        assert [len(r) >= SHORT.turn.calls for r in found[name].rounds] == [True] * 5
        assert min(min(r) for r in found[name].rounds) > 1e-5
        assert found[name].warmup_calls >= SHORT.warmup_calls
        assert len(found[name].cores) == 1
        assert len(found[name].disturbances) == 5
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


def test_a_turn_lasts_until_both_floors_are_reached(small_bundle):
    readings = itertools.count(0, 10_000_000)  # ns: each call takes 10 ms
    with small_bundle.runner("onnx-int8") as runner:
        for turn, calls in ((Turn(calls=3, seconds=0.05), 5), (Turn(calls=7, seconds=0.05, lead_in=2), 7)):
            taken = take_turn(runner, _recorded(small_bundle, 1), turn, lambda: next(readings))
            assert taken == (0.01,) * calls


def test_a_worker_calls_until_both_floors_are_reached(small_bundle):
    with WorkerProcess(Assignment(str(small_bundle.path), "onnx-int8", 1)) as worker:
        assert len(worker.turn(Turn(calls=30, seconds=0, lead_in=3)).seconds) == 30
        assert sum(worker.turn(Turn(calls=1, seconds=0.2)).seconds) >= 0.2


@pytest.mark.skipif(len(usable_cores()) < 2, reason="needs two usable cores")
def test_a_variant_is_bound_to_the_cores_that_were_chosen(small_bundle):
    candidate = Candidate("onnx-int8", small_bundle.path, "onnx-int8")
    first, *_, last = usable_cores()
    assert candidate.assignment(Protocol(1)).cores == (last,)
    found = measure([candidate], replace(SHORT, cores=(first,)), cold_start=False)
    assert found["onnx-int8"].cores == (first,)
    assert found["onnx-int8"].cold_start_s is None


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
        process.cpu_percent(interval=SHORT.pause_seconds + 0.2)  # spinning threads fall asleep
        assert process.cpu_percent(interval=0.5) < 10


def test_a_worker_that_does_not_exist_says_why_in_one_line(tmp_path: Path):
    with pytest.raises(WorkerError, match="is not a bundle"), WorkerProcess(Assignment(str(tmp_path), "x", 1)):
        pass


def test_peak_memory_is_the_worker_s_own_and_not_its_parent_s(small_bundle):
    ballast = bytearray(b"x") * 600_000_000
    with WorkerProcess(Assignment(str(small_bundle.path), "onnx-int8", 1)) as worker:
        assert worker.ready.peak_memory_bytes < 0.5 * len(ballast)
