"""Where the time of a call goes, by each library's own profiler."""

import time

import pytest

from export import targets
from export.libraries.layers import REST
from export.targets import Place, Variant
from xfer.errors import UnavailableError
from xfer.models.policy import count_macs
from xfer.runner import Runner

CALLS = 12
NAMES = [
    "eager-fp32",
    "torchscript-fp32",
    "onnx-fp32",
    "onnx-int8",
    "openvino-fp32",
    "openvino-int8",
    "executorch-int8",
    pytest.param("compile-fp32", marks=pytest.mark.slow),  # it compiles anew: half a minute
    pytest.param("tensorrt-fp32", marks=pytest.mark.gpu),
    pytest.param("eager-fp32@cuda", marks=pytest.mark.gpu),
]
COUNTED = ("eager-fp32", "onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8", "compile-fp32", "eager-fp32@cuda")
"""Whose libraries tell shapes, from which multiplications follow."""


@pytest.mark.parametrize("name", NAMES)
def test_a_profiler_tells_the_layers_and_their_multiplications(exported, policy, met, name):
    variant = Variant.parse(name)
    target = targets.load(variant.target)
    if (reason := target.runnable(variant.place)) is not None:
        pytest.skip(reason)
    folder, _ = exported(variant)
    taken = []
    with target.load(folder, policy.spec, Place(variant.place, 1, profile=True)) as session:
        runner = Runner(session, policy.spec)
        frame = {"frame": met.observations["frame"][0]}

        def act():
            start = time.perf_counter()
            runner.act(frame)
            taken.append(time.perf_counter() - start)

        act()
        layers = target.layers(session, act, CALLS)
    assert len(taken) >= CALLS
    assert target.PROFILER
    assert 0 < sum(layer.seconds for layer in layers) < 2 * max(taken)  # medians of each; a busy machine has two speeds
    assert all(layer.name and layer.kind for layer in layers)
    if name in COUNTED:
        _, macs = count_macs(policy)
        # ONNX Runtime pads the channels of a convolution to the width of its vectors.
        assert macs <= sum(layer.macs or 0 for layer in layers) <= 1.5 * macs
    if name == "onnx-int8":
        assert {layer.precision for layer in layers if layer.macs} == {"fp32", "int8"}
    if name == "eager-fp32":
        assert "policy.trunk.stem.conv1" in [layer.name for layer in layers if layer.kind == "conv2d"]
    if name == "torchscript-fp32":  # its convolutions run without an event of their own
        assert [layer.name for layer in layers if layer.kind == REST] == ["forward"]


def test_a_profile_leaves_no_file_behind(exported, policy, met, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime writes unless it is told otherwise
    variant = Variant.parse("onnx-fp32")
    target = targets.load("onnx")
    with target.load(exported(variant)[0], policy.spec, Place(profile=True)) as session:
        runner = Runner(session, policy.spec)
        target.layers(session, lambda: runner.act({"frame": met.observations["frame"][0]}), 2)
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_on_a_gpu_is_refused_since_it_tells_when_kernels_are_launched(exported, policy, monkeypatch):
    target = targets.load("onnx")
    monkeypatch.setattr(target, "runnable", lambda place: None)
    folder, _ = exported(Variant.parse("onnx-fp32"))
    refused = pytest.raises(UnavailableError, match="does not tell what a layer takes with CUDAExecutionProvider")
    with refused, target.load(folder, policy.spec, Place("cuda", profile=True)):
        pass
