from dataclasses import replace

import pytest

from benchmarks.measure.alone.peak import Peak
from benchmarks.measure.alone.profile import Profile
from benchmarks.measure.alone.soak import Soak
from benchmarks.report import alone
from benchmarks.report.conclusion import conclude
from benchmarks.report.markdown import to_markdown
from benchmarks.report.plots.profile import bars
from benchmarks.report.plots.soak import course
from export.libraries.layers import REST, Layer
from tests.benchmarks.report.sample_report import profiled, sample_report, soaked

PEAKS = (Peak("fp32", 50e9, "ONNX Runtime 1", 1), Peak("int8", 200e9, "ONNX Runtime 1", 1))


def test_a_profile_adds_up_to_the_call_and_keeps_the_longest_layers_in_their_order():
    profile = profiled()
    parts = alone.parts(profile, PEAKS)
    assert sum(part.seconds for part in parts) == pytest.approx(profile.call_s)
    assert sum(part.of_call for part in parts) == pytest.approx(1)
    names = [part.name for part in parts]
    assert len(names) == alone.SHOWN + 2
    assert names[-2:] == ["9 shorter ones", "outside of layers"]
    assert [layer.name for layer in profile.layers if layer.name in names] == names[:-2]


def test_a_line_says_rate_and_share_of_the_peak_of_its_precision():
    layer = Layer("conv", "QLinearConv", 1e-4, 10_000_000, "int8")
    _, ((*line, _, _), *_) = alone.layers(Profile("onnx-int8", "x", 9, 2e-4, (layer,)), PEAKS)
    _, (cells, _) = alone.layers(Profile("onnx-int8", "x", 9, 2e-4, (layer,)), PEAKS)
    assert line == cells[:4]
    assert cells == ["conv", "QLinearConv", "0.10 ms", "50 %", "100.0", "50 %"]


def test_layers_that_overlap_are_no_more_than_the_whole():
    profile = Profile("onnx-fp32", "x", 9, 1e-4, (Layer("a", "Conv", 1e-4), Layer("b", "Conv", 1e-4)))
    parts = alone.parts(profile, PEAKS)
    assert [part.of_call for part in parts] == [0.5, 0.5, 0.0]


def test_a_profile_that_cannot_see_into_machine_code_says_so():
    seen = Profile("onnx-fp32", "x", 9, 1e-3, (Layer("a", "Conv", 9e-4),))
    hidden = Profile("torchscript-fp32", "x", 9, 1e-3, (Layer("forward", REST, 9e-4),))
    assert len(alone.of_profile(seen, ())) == 1
    assert "less than half of the time layer by layer" in alone.of_profile(hidden, ())[1]


def test_a_profile_that_failed_is_one_line_and_no_plot():
    failed = Profile("compile-fp32", "torch.profiler", error="it failed")
    report = sample_report(profile=failed)
    assert alone.of_profile(failed, ()) == ["compile-fp32 has no time per layer: it failed"]
    assert bars(failed, PEAKS) == ""
    assert "compile-fp32 has no time per layer: it failed" in to_markdown(report, conclude(report))


def test_a_soak_says_drift_growth_and_what_slowed_it():
    text = " ".join(alone.of_soak(soaked()))
    assert "ran for 10 of 10 minutes: 750,000 calls" in text
    assert "Its calls became slower: +" in text
    assert "Its memory grew, by 8 bytes a call: +6.00 MB" in text
    assert "quota of processor time was used up for 1.9 s" in text
    assert "Clock: 2,151 to 2,450 MHz. Temperature: 60 to 90 °C." in text


def test_a_soak_that_ended_early_says_why():
    whole = soaked()
    short = replace(whole, intervals=whole.intervals[:5], ended="it was interrupted after 10 s")
    text = " ".join(alone.of_soak(short))
    assert "It ended early: it was interrupted after 10 s." in text
    assert "too short to tell" in text
    assert len(alone.stretches(short)[1]) == 5
    nothing = Soak("onnx-int8", 1, ended="it failed after 0 s: x")
    assert alone.stretches(nothing)[1] == []
    assert course(nothing) == ""
    assert "It ended early" in " ".join(alone.of_soak(nothing))


def test_a_plot_of_a_soak_has_a_row_for_each_figure_that_the_system_tells():
    whole = soaked()
    quiet = replace(whole, intervals=tuple(replace(one, clock_mhz=None, temperature=None) for one in whole.intervals))
    for name in ("median of a call", "slowest call", "memory", "clock", "temperature"):
        assert f">{name}</text>" in course(whole)
    assert "temperature</text>" not in course(quiet)
    assert "memory</text>" in course(quiet)


def test_the_arithmetic_limit_is_macs_by_the_peak():
    text = alone.limits(PEAKS, 100_000_000)
    assert "100.0 million MACs take at least 2.00 ms in fp32 (50 GMAC/s) and 0.50 ms in int8 (200 GMAC/s)" in text
    assert "on 1 thread of this processor" in text
    assert alone.limits((), 100) == alone.limits(PEAKS, 0) == ""
