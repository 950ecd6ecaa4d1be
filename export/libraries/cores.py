"""Which cores a policy runs on, and on how many: one place for ``xfer run``, ``bench`` and whatever counts cores.

A policy that acts on one observation at a time waits for its slowest thread at the end of every operation. So all
threads get cores of one kind, the fastest; one logical CPU of each physical core, since two siblings share its
arithmetic; and of one NUMA node, whose memory is near. No more threads than the control group has processor time for:
one that is throttled stands still for the rest of a period, usually 100 ms.

Sources: Linux, Documentation/ABI/testing/sysfs-devices-system-cpu, admin-guide/cputopology.rst, cgroup-v2.rst (cpu.max)
and scheduler/sched-bwc.rst (cpu.cfs_quota_us).
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from export.libraries.linux import CPU, ROOT, integer, numbers, read

MOST_THREADS = 8
"""Threads that are used unless more are asked for. A batch of one in a small network gains little from more: each
operation takes some 10 us, and meeting at its end costs more the more threads there are."""

SAME_KIND = 0.9
"""Cores whose capacity or highest clock is at least this share of the fastest one's are of its kind: favored cores of
one kind differ by up to 6 % (Turbo Boost Max), efficiency cores by 15 % and more."""


def usable_cores(root: Path = ROOT) -> tuple[int, ...]:
    """Return the logical CPUs that this thread may run on: its affinity, within its container's set of them."""
    online = numbers(read(root, f"{CPU}/online")) or tuple(range(os.cpu_count() or 1))
    status = read(root, "proc/thread-self/status") or read(root, "proc/self/status")
    listed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", status, re.MULTILINE)
    allowed = numbers(listed[1]) if listed else online
    return tuple(cpu for cpu in allowed if cpu in online) or allowed


def quota(root: Path = ROOT) -> float | None:
    """Return how many CPUs' time the control groups of this process allow, or None where there is no limit."""
    limits = [limit for folder in control_groups(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def control_groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that may limit processor time, from this process's own up to the topmost."""
    mounts = {"sys/fs/cgroup": PurePosixPath(), "sys/fs/cgroup/cpu": PurePosixPath()}
    for line in read(root, "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        # In a container the path may be the host's, of which only the container's own folder is to be seen.
        inner = PurePosixPath(path.lstrip("/")) if ".." not in path else PurePosixPath()
        if not controllers:
            mounts["sys/fs/cgroup"] = inner
        elif "cpu" in controllers.split(","):
            mounts |= {"sys/fs/cgroup/cpu": inner, f"sys/fs/cgroup/{controllers}": inner}
    for mount, inner in mounts.items():
        for folder in (inner, *inner.parents):
            yield root / mount / folder


def _limit(folder: Path) -> float | None:
    allowed, _, period = read(folder, "cpu.max").partition(" ")  # version 2: "max 100000" or "150000 100000"
    if not allowed:
        allowed, period = read(folder, "cpu.cfs_quota_us"), read(folder, "cpu.cfs_period_us")  # version 1: -1 for none
    return int(allowed) / int(period) if allowed.isdecimal() and period.isdecimal() and int(period) else None


def by_preference(root: Path = ROOT) -> tuple[int, ...]:
    """Return the usable logical CPUs, the best for one more thread first: bind n threads to the first n.

    In order: isolated ones, if this process was given any; first one of each physical core, then siblings; the fastest
    kind first; the node that has most of them; of equals the last, since the first cores serve most interrupts.
    """
    return tuple(cpu for _, cpu in _ranked(root))


def default_threads(root: Path = ROOT) -> int:
    """Return how many threads a policy runs with unless asked otherwise: one for each of the best cores, at most 8.

    Of isolated cores one: the kernel does not spread a process over them, all threads would stay on the same.
    """
    ranked = _ranked(root)
    if ranked[0][1] in numbers(read(root, f"{CPU}/isolated")):
        return 1
    alike = sum(rank == ranked[0][0] for rank, _ in ranked)
    return max(1, min(alike, MOST_THREADS, int(quota(root) or alike)))


def processes(root: Path = ROOT) -> int:
    """Return how many processes of one thread each can work at a time: usable logical CPUs, within the quota."""
    available = len(usable_cores(root))
    return max(1, min(available, int(quota(root) or available)))


def _ranked(root: Path) -> list[tuple[tuple[Any, ...], int]]:
    """Every usable logical CPU with its rank, the best first; of the same rank are those that are equally good."""
    cpus = usable_cores(root)
    kinds, nodes, isolated = kinds_of(cpus, root), nodes_of(cpus, root), numbers(read(root, f"{CPU}/isolated"))
    turns = {cpu: sum(sibling < cpu for sibling in siblings(cpu, root) if sibling in nodes) for cpu in cpus}
    groups = {cpu: (cpu not in isolated, turns[cpu], kinds[cpu]) for cpu in cpus}
    sizes = Counter((groups[cpu], nodes[cpu]) for cpu in cpus)
    ranks = {cpu: (groups[cpu], -sizes[groups[cpu], nodes[cpu]], -nodes[cpu]) for cpu in cpus}
    return sorted(((ranks[cpu], cpu) for cpu in cpus), key=lambda one: (one[0], -one[1]))


def siblings(cpu: int, root: Path = ROOT) -> tuple[int, ...]:
    """Return the logical CPUs of the same physical core, itself among them."""
    return numbers(read(root, f"{CPU}/cpu{cpu}/topology/thread_siblings_list")) or (cpu,)


def nodes_of(cpus: tuple[int, ...], root: Path = ROOT) -> dict[int, int]:
    """Return each CPU's NUMA node."""
    found = dict.fromkeys(cpus, 0)
    for path in (root / "sys/devices/system/node").glob("node[0-9]*"):
        here = numbers(read(path, "cpulist"))
        found |= {cpu: int(path.name.removeprefix("node")) for cpu in cpus if cpu in here}
    return found


def kinds_of(cpus: tuple[int, ...], root: Path = ROOT) -> dict[int, tuple[bool, int, int, int]]:
    """Return each CPU's kind; the smallest is the fastest.

    What tells kinds apart: Intel's own list of performance cores, the capacity that ARM's device tree gives, the
    highest clock, and ARM's part number (MIDR), of which the larger is mostly the later design.
    """
    performance = numbers(read(root, "sys/devices/cpu_core/cpus"))
    capacity, clock = (
        _steps({cpu: integer(root, f"{CPU}/cpu{cpu}/{name}") or 0 for cpu in cpus})
        for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq")
    )
    parts = {cpu: _arm_part(read(root, f"{CPU}/cpu{cpu}/regs/identification/midr_el1")) for cpu in cpus}
    return {cpu: (cpu not in performance, capacity[cpu], clock[cpu], -parts[cpu]) for cpu in cpus}


def _arm_part(midr: str) -> int:
    """Implementer and part number of a Main ID Register; not variant and revision."""
    value = int(midr, 16) if midr else 0
    return value >> 24 << 12 | value >> 4 & 0xFFF


def _steps(values: Mapping[int, int]) -> dict[int, int]:
    """Return each one's step: 0 for the largest value and those near it, 1 for the next, and so on."""
    step, top, steps = -1, math.inf, dict[int, int]()
    for value in sorted(set(values.values()), reverse=True):
        if value < SAME_KIND * top:
            step, top = step + 1, value
        steps[value] = step
    return {key: steps[value] for key, value in values.items()}
