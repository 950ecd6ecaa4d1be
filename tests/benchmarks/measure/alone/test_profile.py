import pytest

from benchmarks.measure.alone.peak import Peak
from benchmarks.measure.alone.profile import Profile, profile
from benchmarks.measure.protocol import Candidate, Protocol, usable_cores
from export.libraries.layers import Layer

SHORT = Protocol(1, warmup_calls=2, cores=usable_cores()[:1])


def test_a_profile_accounts_for_a_call_of_the_bundle_s_own_frames(small_bundle):
    found = profile(Candidate("onnx-int8", small_bundle.path, "onnx-int8"), SHORT, calls=8)
    assert (found.error, found.profiler, found.calls) == ("", "ONNX Runtime's profiler", 8)
    # Medians of each: a busy machine has two speeds.
    assert 0 < sum(layer.seconds for layer in found.layers) < 5 * found.call_s
    assert sum(layer.macs or 0 for layer in found.layers) >= small_bundle.manifest.provenance.macs


def test_what_cannot_be_profiled_says_why_in_one_line(small_bundle, monkeypatch):
    from export import targets

    found = profile(Candidate("tensorrt-fp32", small_bundle.path, "tensorrt-fp32"), SHORT)
    assert "no such variant" in found.error or "tensorrt-fp32" in found.error
    assert "\n" not in found.error
    monkeypatch.delattr(targets.load("torchscript"), "PROFILER")
    silent = profile(Candidate("torchscript-fp32", small_bundle.path, "torchscript-fp32"), SHORT)
    assert silent.error == "torchscript tells no time per layer"


PEAKS = (Peak("fp32", 50e9, "x", 1), Peak("int8", 200e9, "x", 1))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Layer("a", "Conv", 0.001, 10_000_000, "int8"), 0.05),
        (Layer("a", "Conv", 0.001, 10_000_000, "fp32"), 0.2),  # of int8's variant, one that was left in float
        (Layer("a", "Conv", 0.001, 10_000_000), 0.05),  # as the variant
        (Layer("a", "Conv", 0.001, 10_000_000, "bf16"), None),  # no such peak
        (Layer("a", "Conv", 0.001, None, "int8"), None),
        (Layer("a", "Conv", 0.0, 10, "int8"), None),
        (Layer("a", "Add", 0.001, 0, "int8"), None),
    ],
)
def test_a_layer_is_held_against_the_peak_of_its_own_precision(layer, expected):
    found = Profile("onnx-int8", "x", 1, 0.002, (layer,)).share_of_peak(layer, PEAKS)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_layer_on_a_gpu_is_not_held_against_the_processor():
    layer = Layer("a", "conv2d", 0.001, 10_000_000, "fp32")
    assert Profile("eager-fp32@cuda", "x", 1, 0.002, (layer,)).share_of_peak(layer, PEAKS) is None
