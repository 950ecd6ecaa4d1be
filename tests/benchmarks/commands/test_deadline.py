from dataclasses import replace

from benchmarks.commands.deadline import late
from benchmarks.report.decision import Limits
from tests.benchmarks.report.sample_report import sample_report


def test_what_is_measured_for_comparison_alone_does_not_fail_a_bench_unless_it_is_asked_for():
    sample = sample_report()
    row = sample.rows[0]
    assert row.variant == sample.reference
    beside = ("eager-fp32", "eager-fp32@channels_last", "eager-fp32@cuda", "compile-fp32@cuda")
    rows = tuple(replace(row, variant=name) for name in (*beside, "onnx-int8"))
    slow = replace(sample, rows=rows, loops=(), limits=Limits(deadline_ms=1e-6))
    assert late(slow, "") == late(slow, "onnx-int8") == ["onnx-int8"]
    assert late(slow, "eager-fp32@channels_last, onnx") == ["eager-fp32@channels_last", "onnx-int8"]
    assert late(slow, "eager,compile") == [*beside, "onnx-int8"]
