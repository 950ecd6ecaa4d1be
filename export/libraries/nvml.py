"""The state of this machine's first NVIDIA GPU, from NVML by NVIDIA's own bindings (``nvidia-ml-py``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xfer.errors import UnavailableError

SLOWED_BY = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat (hardware)", 0x80: "power brake"}
"""Bits of ``nvmlDeviceGetCurrentClocksEventReasons`` that say that the GPU is slower than it was told to be."""

IDLE = 0x1
"""The bit that says that its clocks fall since nothing runs; they do not where they are locked."""


@dataclass(frozen=True)
class Gpu:
    """What the driver says of a GPU.

    Attributes:
        name: Model name.
        clock_mhz: Clock of its processors (SM) now.
        most_mhz: The highest that it can be told.
        temperature: In degrees Celsius.
        slowdown_temperature: At which it slows down, or None where it does not tell.
        idle: Whether its clocks fall since nothing runs.
        slowed_by: What else keeps its clocks down.
    """

    name: str
    clock_mhz: int
    most_mhz: int
    temperature: int
    slowdown_temperature: int | None
    idle: bool
    slowed_by: tuple[str, ...]


@contextmanager
def opened() -> Iterator[tuple[Any, Any]]:
    """Open NVML; give its bindings and the first GPU.

    Raises:
        UnavailableError: If the bindings or the driver are missing, or it finds no GPU; it says what to install.
    """
    if importlib.util.find_spec("pynvml") is None:
        raise UnavailableError("NVIDIA's NVML bindings are not installed: pip install nvidia-ml-py")
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise UnavailableError(f"no NVIDIA GPU with a driver (NVML: {error})") from error
    try:
        yield pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError as error:
        raise UnavailableError(f"NVIDIA's driver does not tell (NVML: {error})") from error
    finally:
        pynvml.nvmlShutdown()


def clock_mhz() -> float | None:
    """Return the clock of the first GPU's processors (SM) in MHz, or None where that cannot be known."""
    try:
        with opened() as (nvml, gpu):
            return float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))
    except UnavailableError:
        return None


def joules() -> float:
    """Return the energy that the first GPU has used since its driver was loaded, in joules.

    Raises:
        UnavailableError: If there is no GPU, or it does not count.
    """
    with opened() as (nvml, gpu):
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1e3


def used_bytes(pid: int) -> tuple[int | None, int] | None:
    """Return how much of the first GPU's memory a process uses, and how much all use; None where that is not told.

    Of a single process the driver tells nothing inside most containers, whose process numbers it does not know.
    """
    try:
        with opened() as (nvml, gpu):
            own = [one.usedGpuMemory for one in nvml.nvmlDeviceGetComputeRunningProcesses(gpu) if one.pid == pid]
            return next(iter(own), None), int(nvml.nvmlDeviceGetMemoryInfo(gpu).used)
    except UnavailableError:
        return None


def first_gpu() -> Gpu:
    """Return the state of the first GPU.

    Raises:
        UnavailableError: If there is none, or what is missing to ask it.
    """
    with opened() as (nvml, gpu):
        try:
            slowdown = nvml.nvmlDeviceGetTemperatureThreshold(gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        except nvml.NVMLError:
            slowdown = None
        reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
        return Gpu(
            name=nvml.nvmlDeviceGetName(gpu),
            clock_mhz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
            most_mhz=nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
            temperature=nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            slowdown_temperature=slowdown,
            idle=bool(reasons & IDLE),
            slowed_by=tuple(word for bit, word in SLOWED_BY.items() if reasons & bit),
        )
