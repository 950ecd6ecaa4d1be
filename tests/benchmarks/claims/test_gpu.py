import pytest
import torch

from benchmarks.claims import Options, gpu
from benchmarks.report.rows import Row
from xfer.errors import UnavailableError


def row(variant, p50, status="provisional"):
    return Row(variant, status, p50_ms=p50, speedup=None if p50 is None else 8 / p50)


EAGER = [row("eager-fp32", 8.0, "built"), row("eager-fp32@cuda", 2.0)]


@pytest.mark.parametrize(
    ("engines", "holds"),
    [
        ([row("tensorrt-fp32", 3.0), row("tensorrt-fp16", 1.0)], [True, True]),
        ([row("tensorrt-fp32", 3.0), row("tensorrt-fp16", 2.5)], [True, False]),
        ([row("tensorrt-fp32", 1.0), row("tensorrt-int8", 0.5, "rejected")], [True, False]),
        ([row("tensorrt-fp32", None, "built")], [False]),
        ([], [False]),
    ],
)
def test_engines_have_to_be_proven_and_the_fastest_to_beat_eager_on_the_gpu(engines, holds):
    found = gpu.judge([*EAGER, *engines])
    assert [r["holds"] for r in found] == [True, True, *holds]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(UnavailableError, match="needs an NVIDIA GPU with its driver"):
        gpu.reproduce(Options(name="gpu", output=tmp_path))
    assert not [*tmp_path.iterdir()]


@pytest.mark.gpu
@pytest.mark.slow
def test_a_gpu_trains_exports_and_is_faster(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU with its driver and TensorRT: pip install 'xfer-policy[dev,tensorrt]'")
    assert gpu.reproduce(Options(name="gpu", output=tmp_path, runs=2)).holds
