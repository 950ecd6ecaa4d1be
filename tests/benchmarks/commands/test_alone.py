"""What ``xfer bench --profile`` and ``--soak`` add."""

import pytest

from benchmarks.commands import alone, bench_options
from benchmarks.commands.alone import Wish
from benchmarks.measure.protocol import Protocol, usable_cores
from tests.benchmarks.report.sample_report import sample_report
from xfer.errors import UnavailableError, UsageError


def wish(small_bundle, **options):
    return alone.wish_of(bench_options.Args(bundle=small_bundle.path, **options), small_bundle)


def test_nothing_is_added_unless_it_is_asked_for(small_bundle):
    assert wish(small_bundle, variants="onnx") == Wish()
    assert Wish().variants("") == ""


def test_one_variant_is_profiled_and_soaked_and_benched_alone_unless_others_are_asked_for(small_bundle):
    assert wish(small_bundle, profile="onnx-int8") == Wish("onnx-int8")
    assert wish(small_bundle, profile="torchscript") == Wish("torchscript-fp32")  # the only one of that target
    assert wish(small_bundle, profile="eager-fp32") == Wish("eager-fp32")
    assert wish(small_bundle, profile="onnx-int8", soak=2.0) == Wish("onnx-int8", "onnx-int8", 2.0)
    assert wish(small_bundle, variants="onnx-fp32", profile="onnx-int8", soak=2.0) == Wish(
        "onnx-int8", "onnx-fp32", 2.0
    )
    assert Wish("onnx-int8", "onnx-fp32", 1.0).variants("") == "onnx-int8,onnx-fp32"
    assert Wish("onnx-int8").variants("torchscript") == "torchscript"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"soak": 1.0}, "--soak takes one variant. Name it: --variants"),
        ({"soak": 1.0, "variants": "onnx"}, "--soak takes one variant, and 'onnx' is onnx-fp32, onnx-int8"),
        ({"soak": 0.0, "variants": "onnx-int8"}, "--soak 0 is not a positive number of minutes"),
        ({"soak": float("nan"), "variants": "onnx-int8"}, "--soak nan is not a positive number of minutes"),
        ({"profile": "onnx"}, "--profile takes one variant, and 'onnx' is onnx-fp32, onnx-int8"),
        ({"profile": ""}, "--profile takes one variant, and '' is none"),
        ({"profile": "onyx-int8"}, "'onnx'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(small_bundle, options, line):
    with pytest.raises(UsageError, match=line) as refused:
        wish(small_bundle, **options)
    assert "\n" not in str(refused.value)


def test_a_variant_that_cannot_run_here_is_refused_before_anything_is_measured(small_bundle):
    with pytest.raises(UnavailableError, match="--profile: eager-fp32@cuda cannot run here"):
        wish(small_bundle, profile="eager-fp32@cuda")


def test_an_interrupted_soak_keeps_what_it_gave_and_the_report_goes_on(small_bundle):
    protocol = Protocol(1, warmup_calls=2, cores=usable_cores()[:1])
    report = sample_report(protocol=protocol, soak=None, profile=None)
    seen, written = [], []

    def on_step(name, stage, done):
        seen.append((name, stage, done))
        if len(written) == 3:
            raise KeyboardInterrupt

    found = alone.add(
        report, small_bundle.path, Wish("", "onnx-int8", 1.0), on_step, lambda so_far: written.append(so_far())
    )
    assert found.soak.name == "onnx-int8"
    assert len(found.soak.intervals) == 3
    assert found.soak.ended.startswith("it was interrupted after")
    assert found.partial == ""
    assert found.rows == report.rows
    # Each interval is written as it comes, for the case that the process is killed.
    assert [len(one.soak.intervals) for one in written] == [1, 2, 3]
    assert written[0].partial
    assert [done for _, _, done in seen] == sorted(done for _, _, done in seen)
    assert {name for name, _, _ in seen} == {"onnx-int8"}
