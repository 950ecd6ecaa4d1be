"""This machine's NVIDIA GPU, without torch: the driver's library describes it, cuda-bindings allocates its memory."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from typing import Any

import numpy as np

from export.libraries.causes import device_message
from xfer.errors import ExecutionError, UnavailableError, XferError

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


def compute_capability() -> str:
    """Return the compute capability of the first GPU, as "89" for 8.9.

    Raises:
        UnavailableError: If there is no driver, or it finds no GPU; it says what to install.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise UnavailableError(
            "no NVIDIA GPU with a driver (libcuda.so.1, on a Jetson part of JetPack): apt-get install nvidia-driver"
        ) from error
    device, major, minor = (ctypes.c_int() for _ in range(3))
    if failed := driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        name = ctypes.c_char_p()
        driver.cuGetErrorName(failed, ctypes.byref(name))
        why = cuda_error(f"{failed} ({(name.value or b'unknown').decode()})")
        # Whatever it is, a GPU that does not begin is none.
        raise UnavailableError(f"NVIDIA's driver does not begin: {why}")
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return f"{major.value}{minor.value}"


def missing() -> list[str]:
    """Return what this machine lacks to run a network on an NVIDIA GPU, each with what to install."""
    found = []
    try:
        compute_capability()
    except UnavailableError as error:
        found.append(str(error))
    if not (importlib.util.find_spec("cuda") and importlib.util.find_spec("cuda.bindings")):
        found.append("cuda-bindings, which holds the GPU's buffers, is not installed: pip install cuda-bindings")
    return found


def runtime() -> Any:
    """Return cuda-bindings' CUDA runtime API, whose functions give tuples: an error code, then values."""
    return importlib.import_module("cuda.bindings.runtime")


def checked(answer: tuple[Any, ...]) -> Any:
    """Return the result of a function of cuda-bindings, without its error code.

    Raises:
        UnavailableError: If there is no GPU, or none that this driver and library can use.
        ExecutionError: If memory ran out, or something failed on the GPU.
    """
    error, *values = answer
    if error:
        raise cuda_error(error.name)
    return values[0] if values else None


def cuda_error(what: str) -> XferError:
    """Return what an error code of CUDA means: ``causes`` knows them by name and by number."""
    return device_message(f"CUDA error {what}") or ExecutionError(f"CUDA error {what}")


class Buffer:
    """The memory of one tensor on the GPU, and as much on the host, pinned, that NumPy sees as ``host``."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self._cuda = runtime()
        self.bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._pinned: int = checked(self._cuda.cudaMallocHost(self.bytes))
        self.device: int = checked(self._cuda.cudaMalloc(self.bytes))
        memory = (ctypes.c_ubyte * self.bytes).from_address(self._pinned)
        self.host = np.frombuffer(memoryview(memory), dtype).reshape(shape)

    def upload(self, stream: int) -> None:
        """Queue a copy from host to GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(self._cuda.cudaMemcpyAsync(self.device, self._pinned, self.bytes, kind, stream))

    def download(self, stream: int) -> None:
        """Queue a copy from GPU to host."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(self._cuda.cudaMemcpyAsync(self._pinned, self.device, self.bytes, kind, stream))

    def free(self) -> None:
        """Give both back; ``host`` must not be touched any more."""
        self._cuda.cudaFreeHost(self._pinned)
        self._cuda.cudaFree(self.device)
