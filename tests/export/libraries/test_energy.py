"""Counters of energy, on trees of files like those of the kernel's."""

import pytest

from export.libraries import energy, nvml
from xfer.errors import UnavailableError

FULL = 1_000_000
"""Microjoules at which a counter begins again."""


@pytest.fixture
def zones(tmp_path):
    """Two packages, with cores, which are part of a package, and memory, which is not."""

    def zone(name, kind, microjoules):
        folder = tmp_path / energy.ZONES / name
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{kind}\n")
        (folder / "max_energy_range_uj").write_text(f"{FULL}\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        return folder / "energy_uj"

    return {
        name: zone(name, kind, 100_000)
        for name, kind in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
        )
    }


def test_packages_and_memory_are_added_up_and_cores_are_part_of_a_package(zones, tmp_path):
    counter = energy.Counter.of_processor(tmp_path)
    for file in zones.values():
        file.write_text("300000")
    assert counter.joules() == pytest.approx(3 * 0.2)


def test_a_counter_that_begins_again_loses_nothing(zones, tmp_path):
    counter = energy.Counter.of_processor(tmp_path)
    zones["intel-rapl:0"].write_text("50000")
    assert counter.joules() == pytest.approx(0.95)
    zones["intel-rapl:0"].write_text("150000")
    assert counter.joules() == pytest.approx(1.05)


def test_only_what_is_used_between_begin_and_end_counts(zones, tmp_path):
    meter = energy.Meter(root=tmp_path)
    zones["intel-rapl:0"].write_text("900000")
    assert meter.energy() is None
    meter.begin()
    zones["intel-rapl:1"].write_text("400000")
    meter.end()
    found = meter.energy()
    assert found.joules == pytest.approx(0.3)
    assert found.watts == pytest.approx(0.3 / found.seconds)
    assert (found.meters, meter.why_not) == (("processor",), [])


def test_a_virtual_machine_has_none_and_the_reason_says_so(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu hypervisor avx2\n")
    meter = energy.Meter(root=tmp_path)
    meter.begin()
    meter.end()
    assert meter.energy() is None
    assert "no counter of energy (RAPL)" in meter.why_not[0]
    assert "virtual machine" in meter.why_not[0]


def test_a_machine_without_any_is_no_virtual_machine(tmp_path):
    with pytest.raises(UnavailableError, match="a kernel or processor without any"):
        energy.Counter.of_processor(tmp_path)


def test_counters_that_root_alone_may_read_come_with_the_command_that_opens_them(zones, tmp_path):
    zones["intel-rapl:0"].unlink()
    zones["intel-rapl:0"].mkdir()  # cannot be read, also not by root, as whom a test may run
    with pytest.raises(UnavailableError, match=r"sudo chmod a\+r /sys/class/powercap/\*/energy_uj"):
        energy.Counter.of_processor(tmp_path)


@pytest.mark.gpu
def test_a_gpu_counts_its_energy_and_tells_the_memory_that_a_process_uses():
    try:
        counter = energy.Counter.of_gpu()
    except UnavailableError as error:
        pytest.skip(str(error))
    assert counter.joules() >= 0
    _, used = nvml.used_bytes(0)
    assert used > 0
