"""xfer-bench measures as `xfer bench` does, and the runtime costs next to nothing over the bare library."""

import json
import os
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from benchmarks.commands import bench, bench_options
from benchmarks.measure import protocol
from benchmarks.measure.messages import Assignment, Pace, Reply, Request, Turn
from benchmarks.measure.protocol import Measurement, Protocol, quick
from benchmarks.report.rows import summarize
from export.bundle import records
from export.bundle.reader import Bundle
from tests.export.runtime.conftest import run
from xfer.errors import UnavailableError


@pytest.fixture
def environment(onnxruntime_library) -> dict[str, str]:
    return {**os.environ, "XFER_ONNXRUNTIME_LIBRARY": str(onnxruntime_library)}


def test_the_worker_speaks_the_protocol_of_xfer_bench(build, bundles, environment):
    """A drop-in for ``python -m benchmarks.measure.worker``, so that one run interleaves both."""
    assignment = Assignment(str(bundles / "recurrent.bundle"), "onnx-fp32", 1, (0,), batch=3)
    # At a million ticks a second nearly all fall due while it is still acting.
    paces = [Pace(200.0, 0.1, ((0.01, 2),), lead_in=3), Pace(1e6, 0.05, late="drop"), Pace(50.0, 0.0, ((0.01, 1),))]
    requests = [Request(turn=Turn(7, 0.0, lead_in=2)), *(Request(pace=pace) for pace in paces)]
    said = run(
        build / "xfer-bench",
        "--worker",
        msgspec.json.encode(assignment).decode(),
        input=b"".join(msgspec.json.encode(request) + b"\n" for request in requests),
        env=environment,
    ).stdout
    ready, turn, paced, dropping, gaps = (msgspec.json.decode(line, type=Reply) for line in said.splitlines())
    assert ready.cores == (0,)
    assert set(ready.libraries) == {"xfer (C++)", "onnxruntime"}
    assert len(turn.seconds) == 7
    assert all(0 < second < 1 for second in turn.seconds)
    assert turn.peak_memory_bytes > 1e6
    assert paced.ticks is not None
    assert len(paced.ticks.latencies) == len(paced.ticks.starts) == 20
    assert len(paced.ticks.after_idle["0.01"]) == 2
    assert (paced.ticks.dropped, paced.ticks.idle > 0) == (0, True)
    assert 0 <= paced.ticks.idle_processor < paced.ticks.idle
    assert dropping.ticks.dropped > 0
    assert len(dropping.ticks.latencies) + dropping.ticks.dropped == paces[1].ticks == 50_000
    assert (gaps.ticks.latencies, len(gaps.ticks.after_idle["0.01"])) == ((), 1)


def test_the_worker_says_why_it_cannot(build, bundles):
    assignment = msgspec.json.encode(Assignment(str(bundles), "onnx-fp32", 1)).decode()
    done = subprocess.run([build / "xfer-bench", "--worker", assignment], capture_output=True, check=False)
    assert done.returncode == 1
    assert "is not a bundle" in msgspec.json.decode(done.stdout, type=Reply).error


def test_its_file_holds_what_a_report_is_drawn_from(build, bundles, environment, tmp_path):
    written = tmp_path / "bench.json"
    words = [build / "xfer-bench", bundles / "two.bundle", "--variant", "onnx-fp32", "--quick", "--output", written]
    row = json.loads(run(*words, "--json", env=environment).stdout.splitlines()[-1])
    whole = json.loads(written.read_bytes())
    measurement = msgspec.convert(whole["measurements"][0], Measurement)
    protocol = msgspec.convert(whole["protocol"], Protocol)
    assert protocol == replace(quick(1, cores=measurement.cores), starts=1)
    assert len(measurement.rounds) == protocol.rounds
    assert sum(len(samples) for samples in measurement.rounds) >= protocol.calls
    assert sum(sum(samples) for samples in measurement.rounds) >= protocol.seconds
    assert 0 < measurement.cold_start_s < 5
    assert measurement.peak_memory_bytes > 1e6
    latency = summarize(measurement, None, protocol)
    assert latency is not None
    assert latency.p50_ms == pytest.approx(row["p50_ms"])
    assert latency.p99_ms == pytest.approx(row["p99_ms"])


def test_xfer_bench_measures_it_beside_python_in_the_same_rounds(build, bundle_path, monkeypatch):
    short = Protocol(1, rounds=5, calls=70, seconds=0, quick=True, warmup_calls=5, warmup_seconds=0, pause_seconds=0.01)
    monkeypatch.setattr(protocol, "quick", lambda threads, rounds, cores: short)
    monkeypatch.setattr(bench_options, "QUICK_GAPS", ((0.01, 2),))
    monkeypatch.delenv("XFER_ONNXRUNTIME_LIBRARY", raising=False)
    args = bench_options.Args(
        bundle=bundle_path, variants="onnx", quick=True, cpp=build, rate_hz=50, seconds=0.2, whole_backbone=False
    )
    result = bench.main(args)
    rows = {row["variant"]: row for row in result["variants"]}
    python, cpp = ["eager-fp32", "onnx-fp32", "onnx-int8"], ["onnx-fp32 (C++)", "onnx-int8 (C++)"]
    assert [*rows] == [*python, *cpp]
    assert [loop["variant"] for loop in result["loops"]] == [*python, *cpp]
    for name in cpp:
        row, beside = rows[name], rows[name.removesuffix(" (C++)")]
        assert row["reason"] == f"{beside['variant']} in C++; xfer-verify says what it does"
        assert row["size_bytes"] == beside["size_bytes"]
        assert 0 < row["p50_ms"] < 2 * beside["p50_ms"]
        assert row["speedup_spread"][0] <= row["speedup"] <= row["speedup_spread"][1]
        assert row["cold_start_s"] < beside["cold_start_s"]
        assert row["peak_memory_bytes"] < beside["peak_memory_bytes"]
    measured = {m["name"]: m for m in json.loads(Path(result["report"]["json"]).read_bytes())["measurements"]}
    for name in cpp:
        said = measured[name]["libraries"]
        assert said["xfer (C++)"]
        assert said["onnxruntime"] == measured["onnx-int8"]["libraries"]["onnxruntime"]
    assert sorted(records.load(Bundle(bundle_path))) == python  # what is recommended is what Python runs


def test_xfer_bench_says_how_the_runtime_is_built(bundle_path, tmp_path):
    with pytest.raises(UnavailableError, match=r'no xfer-bench.*cmake -S "\$\(xfer cmake-dir\)/\.\."'):
        bench.main(bench_options.Args(bundle=bundle_path, cpp=tmp_path))


def model_of(bundle: Path, variant: str) -> Path:
    return bundle / Bundle(bundle).build(variant).folder / "policy.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-int8"])
def test_an_action_costs_no_more_than_onnx_runtime_alone(build, bundles, environment, variant):
    bundle = bundles / "cartpole.bundle"
    said = run(build / "tests" / "bare_onnx", "compare", model_of(bundle, variant), bundle, variant, env=environment)
    found = json.loads(said.stdout)
    assert found["xfer_us"] <= found["bare_us"] + max(0.02 * found["bare_us"], 50), found


@pytest.mark.slow
def test_the_first_action_comes_as_soon_as_with_onnx_runtime_alone(build, bundles, environment):
    bundle = bundles / "cartpole.bundle"
    ours = [build / "examples" / "ten_lines", bundle, "onnx-int8"]
    bare = [build / "tests" / "bare_onnx", "cold", model_of(bundle, "onnx-int8")]
    ratios = []
    for _ in range(20):
        seconds = []
        for words in (ours, bare):
            start = time.perf_counter()
            run(*words, env=environment)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    assert statistics.median(ratios) <= 1.15, ratios


@pytest.mark.slow
def test_memory_does_not_grow_over_a_million_calls(build, bundles, environment):
    program = build / "tests" / "lifetime_test"
    said = run(program, bundles / "recurrent.bundle", "onnx-fp32", "1000", "1000000", env=environment).stdout
    assert b"1000000 calls" in said


def test_the_core_is_small(build, tmp_path):
    stripped = tmp_path / "libxfer.so"
    run("strip", "-o", stripped, build / "libxfer.so")
    assert stripped.stat().st_size < 500_000
