from dataclasses import replace

import pytest

from export.bundle.machine import describe, power_mode, this_machine
from tests import machines
from tests.machines import ARM, common, write


def test_two_boards_of_equal_cores_are_two_kinds(tmp_path):
    five = describe(machines.raspberry(tmp_path / "pi"))
    rock = describe(machines.arm(tmp_path / "other", "Radxa ROCK 4D", [("0x41", "0xd0b")] * 4))
    assert five.processor == "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)"
    assert five.kind != rock.kind
    assert five.id != rock.id


def test_without_a_device_tree_the_main_id_register_names_the_processor(tmp_path):
    kinds = [[("0x41", "0xd40")], [("0x41", "0xd4f")], [("0x41", "0xd05"), ("0x41", "0xd41")], [("0x7f", "0x1")]]
    found = [describe(machines.arm(tmp_path / str(number), "", parts)) for number, parts in enumerate(kinds)]
    names = ["Neoverse-V1", "Neoverse-V2", "Cortex-A55 + Cortex-A78", "ARM 0x7f/0x1"]
    assert [machine.processor for machine in found] == names
    assert len({machine.kind for machine in found}) == len(kinds)


def test_the_architecture_that_some_kernels_call_a_model_name_is_no_processor(tmp_path):
    cpuinfo = f"model name\t: ARMv8 Processor rev 1 (v8l)\n{ARM.format(0, '0x41', '0xd42')}"
    assert describe(write(tmp_path, {**common(1), "proc/cpuinfo": cpuinfo})).processor == "Cortex-A78AE"


def test_two_boards_of_a_model_are_one_kind_and_two_machines(tmp_path):
    one, two = (describe(machines.jetson(tmp_path / serial, serial=serial)) for serial in ("111", "222"))
    assert one.kind == two.kind
    assert one.id != two.id


def test_two_cloud_machines_of_a_size_are_one_kind_and_two_machines(tmp_path):
    found = []
    for number in ("aa", "bb"):
        root = machines.two_sockets(tmp_path / number)
        found.append(describe(write(root, {"etc/machine-id": number * 16})))
    assert found[0].kind == found[1].kind
    assert found[0].id != found[1].id
    assert "aaaa" not in found[0].host  # machine-id is not to be told to others


def test_the_machine_id_of_a_container_does_not_count_as_it_ends_with_it(tmp_path):
    first, second = (describe(machines.container(tmp_path / name, machine_id=name * 32)) for name in "12")
    assert first.id == second.id
    assert first.host == ""
    (root := tmp_path / "2").joinpath(".dockerenv").touch()
    write(root, {"proc/self/mountinfo": "22 1 0:1 / / rw - 9p none rw"})
    assert describe(root).id == first.id


def test_a_boards_serial_number_counts_in_a_container_that_sees_it(tmp_path):
    boards = [machines.raspberry(tmp_path / name, serial=name) for name in ("1", "2")]
    for root in boards:
        (root / ".dockerenv").touch()
    assert len({describe(root).id for root in boards}) == 2


def test_memory_and_power_mode_make_another_machine_of_the_same_kind(tmp_path):
    small = describe(machines.raspberry(tmp_path / "4", memory_kb=4_050_000))
    large = describe(machines.raspberry(tmp_path / "8", memory_kb=8_060_000))
    thrifty, full = (describe(machines.jetson(tmp_path / f"mode{mode}", mode=mode)) for mode in (2, 0))
    assert (thrifty.power_mode, full.power_mode) == ("nvpmodel 2 30W", "nvpmodel 0 MAXN")
    for one, two in ((small, large), (thrifty, full)):
        assert one.kind == two.kind
        assert one.id != two.id


def test_a_firmware_profile_is_a_power_mode(tmp_path):
    assert power_mode(machines.hybrid(tmp_path)) == "balanced"


def test_affinity_and_what_the_kernel_keeps_of_the_memory_change_nothing(tmp_path):
    whole, bound = (machines.two_sockets(tmp_path / name, allowed=name) for name in ("0-127", "3"))
    write(bound, {"proc/meminfo": "MemTotal:       526900000 kB"})
    assert describe(bound).cores == 1
    assert describe(whole).id == describe(bound).id


def test_another_gpu_is_another_kind(tmp_path):
    root = machines.hybrid(tmp_path)
    assert describe(root).kind != describe(root, gpu="NVIDIA H200, 580.65").kind


@pytest.mark.parametrize("change", [{"processor": "x"}, {"instruction_set": "avx2"}, {"gpu": "y"}])
def test_what_decides_how_a_variant_acts_is_in_both_names(change):
    here = this_machine()
    there = replace(here, **change)
    assert here.kind != there.kind
    assert here.id != there.id


def test_a_record_of_version_020_is_of_this_kind_and_not_of_this_machine():
    here = this_machine()
    older = replace(here, board="", power_mode="", host=None)
    assert older.id == here.id_v020
    assert older.id != here.id
    assert older.kind == here.kind
