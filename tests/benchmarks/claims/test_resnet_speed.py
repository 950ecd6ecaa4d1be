import numpy as np
import pytest
import torch

from benchmarks.claims import Options, resnet_speed
from benchmarks.report.rows import Row
from xfer.spec import ImageConfig


@pytest.fixture
def small(monkeypatch):
    """The whole network on 32 x 32 pixels, and fewer targets."""
    monkeypatch.setattr(resnet_speed, "IMAGE", ImageConfig(crop=(284, 316, 284, 316), gray=False, frames=1))
    monkeypatch.setattr(resnet_speed, "MIN_SPEEDUPS", {"torchscript-fp32": 0.01, "nothing-fp32": 1.0})
    monkeypatch.setattr(resnet_speed, "BESIDE", ())


def row(variant, speedup):
    spread = None if speedup is None else (0.9 * speedup, 1.1 * speedup)
    return Row(variant, "built", speedup=speedup, speedup_spread=spread)


def test_each_variant_has_its_floor_and_those_beside_have_none():
    rows = [row("eager-fp32", 1.0), row("onnx-fp32", 1.8), row("onnx-int8", 4.4), row("openvino-fp32", None)]
    found = resnet_speed.judge([*rows, row("executorch-fp32", 0.5)])
    assert {one["variant"]: one["holds"] for one in found} == {
        "onnx-fp32": True,
        "onnx-int8": False,
        "executorch-fp32": True,
    }


def test_the_arithmetic_limit_is_the_network_at_the_rate_of_a_matrix_product():
    said = resnet_speed.arithmetic_limit(rate=1e11, macs=2_000_000_000, eager_ms=30.0)
    for part in ("100 GMAC/s", "2,000 million MACs alone take 20.0 ms", "about 1.50 times as fast as eager"):
        assert part in said


def test_more_threads_than_one_do_not_stay_set():
    before = torch.get_num_threads()
    assert resnet_speed.multiplications_per_second(1) > 1e8
    assert torch.get_num_threads() == before


def test_the_network_is_a_whole_resnet_on_224_pixels_of_the_camera_s_frame():
    from benchmarks.measure.beside.whole_backbone import whole_policy
    from xfer import tasks
    from xfer.models.config import PolicyConfig
    from xfer.models.contract import make_spec
    from xfer.models.policy import count_macs

    image = resnet_speed.IMAGE
    assert image.size == (224, 224)
    spec = make_spec(tasks.load(resnet_speed.TASK), image, "values")
    assert [(tensor.name, tensor.shape) for tensor in spec.inputs] == [("frame", (400, 600, 3))]
    policy = whole_policy(PolicyConfig("resnet18", "stem", "flatten", 0, image), spec)
    assert count_macs(policy)[1] == pytest.approx(1.81e9, rel=0.01)


def test_what_is_built_is_kept_and_what_cannot_be_is_noted(small, tmp_path):
    args = Options(name="resnet-speed", output=tmp_path)
    bundle, notes = resnet_speed.build(args)
    assert set(bundle.builds) == {"eager-fp32", "torchscript-fp32"}
    assert "nothing-fp32 was left out: xfer has no such target." in notes
    golden = bundle.golden()
    assert len(golden) == resnet_speed.GOLDEN
    assert golden.resets.sum() >= 2
    assert len(np.unique(golden.observations["frame"], axis=0)) > 10
    folders = {name: (build.folder, build.seconds) for name, build in bundle.builds.items()}
    again, _ = resnet_speed.build(args)
    assert {name: (build.folder, build.seconds) for name, build in again.builds.items()} == folders


@pytest.mark.slow
def test_it_measures_against_eager_and_compares_with_the_floors(small, monkeypatch, tmp_path):
    monkeypatch.setattr(resnet_speed, "QUICK", True)
    monkeypatch.setattr(resnet_speed, "CALIBRATION", 4)
    monkeypatch.setattr(resnet_speed, "MIN_SPEEDUPS", {"onnx-fp32": 0.01, "onnx-int8": 1000.0})
    found = resnet_speed.reproduce(Options(name="resnet-speed", output=tmp_path, runs=5, threads=1))
    held = {one["variant"]: one["holds"] for one in found.rows}
    assert held["onnx-fp32"]
    assert not held["onnx-int8"]
    assert any(note.startswith("Arithmetic limit") for note in found.notes)
    assert (tmp_path / "report" / "report.html").exists()
