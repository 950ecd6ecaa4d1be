"""What CUDA's error codes mean: cuda-bindings gives them by name, the driver by number."""

from types import SimpleNamespace

import pytest

from export.libraries import cuda, pytorch
from xfer.errors import ExecutionError, UnavailableError


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("cudaErrorNoDevice", UnavailableError, "there is no NVIDIA GPU"),
        ("cudaErrorInsufficientDriver", UnavailableError, "driver is too old"),
        ("cudaErrorNoKernelImageForDevice", UnavailableError, "no code for the GPU at hand"),
        ("cudaErrorMemoryAllocation", ExecutionError, "out of memory"),
        ("cudaErrorLaunchFailure", ExecutionError, "the GPU failed"),
        ("cudaErrorIllegalAddress", ExecutionError, "the GPU failed"),
        ("35 (CUDA_ERROR_STUB)", UnavailableError, "driver is too old"),
        ("100 (CUDA_ERROR_NO_DEVICE)", UnavailableError, "there is no NVIDIA GPU"),
        ("2 (CUDA_ERROR_OUT_OF_MEMORY)", ExecutionError, "out of memory"),
    ],
)
def test_each_error_code_is_what_it_is(code, kind, said):
    with pytest.raises(kind, match=said) as caught:
        cuda.checked((SimpleNamespace(name=code), None))
    assert code in str(caught.value)


def test_without_an_error_the_value_is_given():
    assert cuda.checked((0, 7)) == 7
    assert cuda.checked((0,)) is None


def test_pytorch_says_why_it_sees_no_gpu(monkeypatch):
    import torch

    def fail():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail)
    assert "PyTorch sees no CUDA GPU: NVIDIA's driver is too old" in pytorch.on_cuda()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in pytorch.on_cuda()
    assert pytorch.try_out("") is None
