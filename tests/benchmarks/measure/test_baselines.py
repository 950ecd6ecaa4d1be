"""What speed-ups are against, on records and rows made by hand: no GPU was available where this was written."""

from pathlib import Path

import pytest

from benchmarks.measure import baselines
from benchmarks.measure.protocol import Candidate, Measurement, Protocol
from benchmarks.report import table
from benchmarks.report.rows import Row, summarize
from export.bundle.records import Verification
from export.targets import eager

PROTOCOL = Protocol(2, rounds=5)


def candidates(*names, cpp=()):
    own = [Candidate(name, Path(), name) for name in names]
    return [*own, *(Candidate(f"{name} (C++)", Path(), name, worker=("xfer-bench",)) for name in cpp)]


def given(*names, cpp=()):
    return {one.name: one.baseline for one in baselines.given(candidates(*names, cpp=cpp), "eager-fp32")}


def test_a_row_on_a_gpu_is_held_against_eager_on_the_gpu():
    found = given("eager-fp32", "eager-fp32@cuda", "onnx-int8", "onnx-fp16@cuda", "onnx-fp16@tensorrt", "tensorrt-fp16")
    assert found.pop("eager-fp32") == found.pop("onnx-int8") == "eager-fp32"
    assert set(found.values()) == {"eager-fp32@cuda"}


def test_without_eager_on_the_gpu_there_is_no_speed_up_there_and_the_report_says_so():
    found = given("eager-fp32", "onnx-int8", "tensorrt-fp16")
    assert found == {"eager-fp32": "eager-fp32", "onnx-int8": "eager-fp32", "tensorrt-fp16": ""}
    told = baselines.notes(baselines.given(candidates("eager-fp32", "tensorrt-fp16"), "eager-fp32"))
    assert told == ["No speed-up of tensorrt-fp16: the reference was not measured in the same way on the GPU."]
    assert baselines.notes(baselines.given(candidates("eager-fp32", "onnx-int8"), "eager-fp32")) == []


def test_what_replays_a_cuda_graph_is_held_against_eager_that_does_too():
    assert given("eager-fp32@cuda", "tensorrt-fp16", cpp=["tensorrt-fp16"])["tensorrt-fp16 (C++)"] == ""
    found = given("eager-fp32@cuda", "eager-fp32@cudagraphs", "tensorrt-fp16", cpp=["tensorrt-fp16"])
    assert found["tensorrt-fp16"] == "eager-fp32@cuda"
    assert found["tensorrt-fp16 (C++)"] == found["eager-fp32@cudagraphs"] == "eager-fp32@cudagraphs"


def test_another_reference_has_its_own_baseline_on_the_gpu():
    found = baselines.given(candidates("onnx-fp32", "onnx-fp32@cuda", "onnx-fp16@cuda"), "onnx-fp32")
    assert [one.baseline for one in found] == ["onnx-fp32", "onnx-fp32@cuda", "onnx-fp32@cuda"]


def test_the_bench_adds_the_baseline_where_a_row_on_a_gpu_can_run(small_bundle, monkeypatch):
    asked = ["eager-fp32", "onnx-fp32@cuda"]
    monkeypatch.setattr(baselines, "why_not", lambda bundle, name: "no GPU" if "@cuda" in name else None)
    assert baselines.added(small_bundle, asked) == asked
    # As on a machine with a GPU; that it runs there was never seen.
    monkeypatch.setattr(baselines, "why_not", lambda bundle, name: None)
    assert baselines.added(small_bundle, asked) == ["eager-fp32", "eager-fp32@cuda", "onnx-fp32@cuda"]
    assert baselines.added(small_bundle, ["eager-fp32", "onnx-int8"]) == ["eager-fp32", "onnx-int8"]


def test_the_speed_up_is_the_one_on_the_same_device_and_the_column_says_so():
    def measured(name, milliseconds):
        return Measurement(name, name, ((milliseconds / 1000,) * 20,) * 5)

    on_cpu, on_gpu, engine = measured("eager-fp32", 8), measured("eager-fp32@cuda", 2), measured("tensorrt-fp16", 1)
    figures = summarize(engine, on_gpu, PROTOCOL)
    assert (figures.speedup, figures.baseline) == (pytest.approx(2.0), "eager-fp32@cuda")
    shown = table.cells(Row.of("tensorrt-fp16", Verification("verified"), 1, figures))[-1]
    assert shown.endswith("on the GPU")
    assert table.columns("eager-fp32")[-1] == "Speed-up against eager, same device"
    alone = summarize(engine, None, PROTOCOL)
    assert (alone.speedup, alone.baseline) == (None, "")
    assert table.cells(Row.of("tensorrt-fp16", Verification("verified"), 1, alone))[-1] == "n/a"
    plain = summarize(on_cpu, on_cpu, PROTOCOL)
    assert table.cells(Row.of("eager-fp32", Verification("verified"), 1, plain))[-1] == "1.00x [1.00, 1.00]"


def test_eager_with_cuda_graphs_is_a_place_that_needs_a_gpu():
    assert "cudagraphs" in eager.PLACES
    assert eager.runnable("cudagraphs") == eager.runnable("cuda")
