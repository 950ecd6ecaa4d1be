import os

import pytest

from export.libraries.cores import by_preference, default_threads, processes, quota, usable_cores
from tests import machines
from tests.machines import CPU, common, each, write


def best(root, threads=0):
    return sorted(by_preference(root)[: threads or default_threads(root)])


def test_a_hybrid_processor_gives_one_logical_cpu_of_each_performance_core(tmp_path):
    root = machines.hybrid(tmp_path)
    assert default_threads(root) == 8
    assert best(root) == list(range(0, 16, 2))
    assert best(root, 1) == [14]
    # Whoever asks for more gets efficiency cores before second siblings.
    assert best(root, 16) == [*range(0, 16, 2), *range(16, 24)]
    assert sorted(by_preference(root)) == list(range(24))


def test_without_intels_list_the_highest_clocks_tell_the_kinds_apart(tmp_path):
    root = machines.hybrid(tmp_path)
    (root / "sys/devices/cpu_core/cpus").unlink()
    (root / "sys/devices/cpu_atom/cpus").unlink()
    assert best(root) == list(range(0, 16, 2))  # a favored core is no kind of its own


def test_siblings_numbered_half_apart_are_not_used_together(tmp_path):
    root = machines.half_apart(tmp_path)
    assert default_threads(root) == 8
    assert best(root) == list(range(8))
    assert best(root, 2) == [6, 7]


def test_two_sockets_give_at_most_eight_cores_of_one_node(tmp_path):
    root = machines.two_sockets(tmp_path)
    assert default_threads(root) == 8
    assert best(root) == list(range(56, 64))
    assert best(root, 32) == list(range(32, 64))


def test_the_node_with_most_of_the_allowed_cores_is_taken(tmp_path):
    root = machines.two_sockets(tmp_path, allowed="4-9,40-41,68-73")
    assert usable_cores(root) == (*range(4, 10), 40, 41, *range(68, 74))
    assert best(root) == list(range(4, 10))


def test_a_process_that_was_given_second_siblings_alone_uses_them(tmp_path):
    assert best(machines.two_sockets(tmp_path, allowed="64-67")) == [64, 65, 66, 67]


@pytest.mark.parametrize(
    ("allowance", "threads", "workers"),
    [("100000 100000", 1, 1), ("250000 100000", 2, 2), ("50000 100000", 1, 1), ("max 100000", 8, 64)],
)
def test_a_container_gets_as_many_threads_as_it_has_time_for(tmp_path, allowance, threads, workers):
    root = machines.container(tmp_path, allowance)
    assert len(usable_cores(root)) == 64
    assert (default_threads(root), processes(root)) == (threads, workers)


def test_a_container_of_control_groups_version_1_is_limited_too(tmp_path):
    root = machines.container_v1(tmp_path)
    assert (quota(root), default_threads(root), processes(root)) == (2.5, 2, 2)


def test_the_smallest_limit_of_all_groups_above_holds(tmp_path):
    groups = {"user.slice": "400000 100000", "user.slice/user-1000.slice": "300000 100000"}
    files = {f"sys/fs/cgroup/{group}/cpu.max": limit for group, limit in groups.items()}
    root = write(tmp_path, {**common(8), **files})
    assert (quota(root), default_threads(root)) == (3.0, 3)


def test_a_board_of_large_and_small_cores_gives_the_large_ones(tmp_path):
    root = machines.rk3588(tmp_path)
    assert best(root) == [4, 5, 6, 7]
    assert best(root, 5) == [3, 4, 5, 6, 7]


def test_cores_of_two_designs_are_not_mixed_though_nothing_but_their_part_number_differs(tmp_path):
    assert best(machines.tx2(tmp_path)) == [1, 2]


def test_equal_cores_are_all_used_up_to_eight(tmp_path):
    assert best(machines.raspberry(tmp_path / "pi")) == [0, 1, 2, 3]
    assert best(machines.jetson(tmp_path / "orin")) == list(range(4, 12))


def test_isolated_cores_that_the_process_was_given_come_first_and_take_one_thread(tmp_path):
    root = write(tmp_path, {**common(4, allowed="1-3"), f"{CPU}/isolated": "2-3"})
    assert best(root) == [3]
    # Those that it was not given stay out.
    write(root, common(4, allowed="0-1") | {f"{CPU}/isolated": "2-3"})
    assert best(root) == [0, 1]


def test_cores_that_are_switched_off_are_not_used(tmp_path):
    root = write(tmp_path, {**common(8), f"{CPU}/online": "0-1,4", **each(range(8), "cpu_capacity", 1024)})
    assert usable_cores(root) == (0, 1, 4)


def test_a_system_that_tells_nothing_gives_every_core_that_python_counts(tmp_path):
    assert usable_cores(tmp_path) == tuple(range(os.cpu_count()))
    assert default_threads(tmp_path) >= 1


def test_this_machine_is_read_as_the_kernel_binds_this_process():
    before = os.sched_getaffinity(0)
    assert set(usable_cores()) == before
    try:
        os.sched_setaffinity(0, {max(before)})
        assert usable_cores() == (max(before),)
        assert (default_threads(), processes()) == (1, 1)
    finally:
        os.sched_setaffinity(0, before)
