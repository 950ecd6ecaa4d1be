"""NVML, played by a stand-in: what a driver tells of a GPU's memory and energy."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from export.libraries import nvml


class NVMLError(Exception):
    pass


@pytest.fixture
def driver(monkeypatch):
    """A driver with one GPU; a test sets what it tells."""
    module = ModuleType("pynvml")
    module.__spec__ = SimpleNamespace(name="pynvml")
    module.NVMLError, module.processes, module.used, module.millijoules = NVMLError, [], 0, 0
    module.nvmlInit = module.nvmlShutdown = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetComputeRunningProcesses = lambda gpu: module.processes
    module.nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(used=module.used)
    module.nvmlDeviceGetTotalEnergyConsumption = lambda gpu: module.millijoules
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_the_memory_of_a_process_is_its_own_and_that_of_all_is_told_too(driver):
    driver.processes = [SimpleNamespace(pid=7, usedGpuMemory=300), SimpleNamespace(pid=8, usedGpuMemory=500)]
    driver.used = 900
    assert nvml.used_bytes(8) == (500, 900)
    assert nvml.used_bytes(9) == (None, 900)  # as in a container, whose numbers the driver does not know


def test_energy_is_in_joules(driver):
    driver.millijoules = 2500
    assert nvml.joules() == 2.5


def test_without_a_driver_there_is_no_figure(driver):
    def fails():
        raise NVMLError("Driver Not Loaded")

    driver.nvmlInit = fails
    assert nvml.used_bytes(1) is None
