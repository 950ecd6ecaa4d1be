import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.measure.conditions import check
from export.libraries.cores import by_preference, default_threads
from export.libraries.nvml import Gpu
from tests import machines
from tests.machines import CPU, write

H200 = Gpu("NVIDIA H200", 1980, 1980, 40, 89, idle=False, slowed_by=())


def looked(root, *, cores=None, threads=0, **options):
    threads = threads or default_threads(root)
    bound = by_preference(root)[:threads] if cores is None else cores
    return {one.name: one for one in check(bound, threads, root=root, **{"gpu": "none", **options})}


def states(found):
    return {name: condition.state for name, condition in found.items()}


def test_a_laptop_as_it_comes_is_told_what_to_mend(tmp_path):
    found = looked(machines.hybrid(tmp_path))
    assert states(found) == {
        "cores": "good",
        "container": "good",
        "governor": "mend",
        "turbo": "mend",
        "SMT": "mend",
        "isolation": "mend",
        "temperature": "good",
        "power mode": "mend",
        "GPU": "unknown",
    }
    assert found["governor"].found == "powersave"
    assert found["governor"].mend == f"echo performance | sudo tee /{CPU}/cpu*/cpufreq/scaling_governor"
    assert found["turbo"].mend == f"echo 1 | sudo tee /{CPU}/intel_pstate/no_turbo"
    assert found["SMT"].mend == f"echo off | sudo tee /{CPU}/smt/control"
    assert found["isolation"].mend.endswith("AllowedCPUs=1,3,5,7,9,11,13,15-23")
    assert found["power mode"].mend == "echo performance | sudo tee /sys/firmware/acpi/platform_profile"


def test_a_machine_that_is_set_for_measuring_has_nothing_to_mend_but_its_heat(tmp_path):
    root = machines.half_apart(tmp_path)
    write(root, {f"{CPU}/online": "0-7", f"{CPU}/isolated": "7", "proc/thread-self/status": "Cpus_allowed_list:\t7"})
    found = looked(root)
    assert {name for name, state in states(found).items() if state != "good"} == {"temperature", "GPU"}
    assert found["temperature"].found == "Tctl 88 °C, slows down at 95 °C"  # not the disk's


def test_badly_chosen_cores_are_told_with_better_ones(tmp_path):
    root = machines.hybrid(tmp_path)
    found = looked(root, cores=(14, 15), threads=2)["cores"]
    assert (found.state, found.found) == ("mend", "14-15 of 0-23: some are siblings of one physical core")
    assert found.mend == "xfer bench BUNDLE --threads 2 --cores 12,14"
    assert "slower kind" in looked(root, cores=(14, 16), threads=2)["cores"].found
    sockets = machines.two_sockets(tmp_path / "sockets")
    assert "several NUMA nodes" in looked(sockets, cores=(0, 32), threads=2)["cores"].found


def test_more_threads_than_a_container_has_time_for_are_impossible(tmp_path):
    root = machines.container(tmp_path)
    assert looked(root)["container"].state == "good"
    asked = looked(root, threads=4)["container"]
    assert (asked.state, asked.mend) == ("impossible", "docker update --cpus 4 CONTAINER")
    # Nobody asked for the one thread that there is at least.
    assert looked(machines.container(tmp_path / "half", "50000 100000"))["container"].state == "mend"


def test_isolated_cores_that_are_not_used_are_told_with_the_command_that_does(tmp_path):
    status = "proc/thread-self/status"
    root = write(machines.half_apart(tmp_path), {f"{CPU}/isolated": "6-7", status: "Cpus_allowed_list: 0-5"})
    assert looked(root)["isolation"].mend == "taskset -c 6-7 xfer bench BUNDLE --threads 1"
    write(root, {status: "Cpus_allowed_list: 6-7"})
    assert "all stay on one" in looked(root, threads=2)["isolation"].found


def test_boards_tell_their_power_and_the_clocks_of_the_gpu_in_their_chip(tmp_path):
    orin = looked(machines.jetson(tmp_path / "orin"))
    assert orin["power mode"].mend == "sudo nvpmodel -m 0"
    assert orin["GPU clocks"].found == "306 of 1300 MHz, not locked"
    locked = write(tmp_path / "orin", {"sys/class/devfreq/17000000.gpu/min_freq": 1_300_500_000})
    assert looked(locked)["GPU clocks"].state == "good"
    assert "undervoltage" in looked(machines.raspberry(tmp_path / "pi"))["power mode"].found


def test_a_laptop_on_battery_is_told_so(tmp_path):
    supply = "sys/class/power_supply/BAT0"
    root = write(machines.half_apart(tmp_path), {f"{supply}/type": "Battery", f"{supply}/status": "Discharging"})
    assert looked(root)["power mode"].state == "mend"


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "good", "1980 of 1980 MHz, held"),
        ({"clock_mhz": 345, "idle": True}, "mend", "345 of 1980 MHz, not locked"),
        ({"slowed_by": ("power cap",)}, "mend", "kept down by power cap"),
    ],
)
def test_clocks_of_a_gpu(tmp_path, change, state, words):
    found = looked(machines.hybrid(tmp_path), gpu=replace(H200, **change))
    assert found["GPU"].state == "good"
    assert found["GPU clocks"].state == state
    assert words in found["GPU clocks"].found
    assert bool(found["GPU clocks"].mend) == (state == "mend")


def test_a_hot_gpu_is_told(tmp_path):
    assert looked(machines.hybrid(tmp_path), gpu=replace(H200, temperature=85))["GPU"].mend == "sleep 300"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA GPU")
def test_a_variant_that_needs_a_gpu_is_impossible_without_one(tmp_path):
    found = looked(machines.hybrid(tmp_path), on_gpu=True, gpu=None)["GPU"]
    assert (found.state, found.mend) == ("impossible", "apt-get install nvidia-driver")


@pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="pip install nvidia-ml-py")
def test_nvml_tells_the_gpu_or_why_there_is_none():
    from export.libraries import nvml
    from xfer.errors import UnavailableError

    if nvml.clock_mhz() is None:
        with pytest.raises(UnavailableError, match="no NVIDIA GPU with a driver"):
            nvml.first_gpu()
    else:
        assert 0 < nvml.first_gpu().clock_mhz <= nvml.first_gpu().most_mhz


def test_nothing_is_invented_where_nothing_is_told(tmp_path):
    found = looked(tmp_path, cores=(0,), threads=1)
    unknown = {name for name, state in states(found).items() if state == "unknown"}
    assert unknown == {"governor", "turbo", "temperature", "power mode", "GPU"}
