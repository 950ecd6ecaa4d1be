"""What a variant's process suffered during its turns: from other processes, its container's quota, the hypervisor.

The worker's own counters tell most of it, to the nanosecond: how long each of its threads was ready to run and had no
core (``/proc/PID/task/TID/schedstat``), how often a core was taken from one (``status``), and how long its control
groups were throttled (``cpu.stat``). A process that sleeps suffers nothing. What the hypervisor takes, and what others
did on the cores, is told in ticks of 10 ms only (``/proc/stat``).

All readings are taken by the parent, before and after a turn: nothing of xfer's own runs beside the variant. What no
counter shows, a neighbor that takes memory bandwidth, is left to the reference kernel: see ``benchmarks/stats/slowed``.

Sources: Linux, Documentation/scheduler/sched-stats.rst, filesystems/proc.rst, admin-guide/cgroup-v2.rst (cpu.stat) and
scheduler/sched-bwc.rst (throttled_time).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.libraries import cores as machine_cores
from export.libraries import nvml
from export.libraries.linux import ROOT, read

if TYPE_CHECKING:
    import psutil

LIMIT = 0.05
"""Share of the turns' time. What takes less moves a median by less than what counts as unstable."""

TICK_S = 0.01
"""What ``/proc/stat`` counts in: a difference of two readings is more than the truth by up to this much."""

RESOLUTION_S = 2 * TICK_S
"""Of what others did in one turn, less than this is no evidence: it is the difference of two such differences. What is
added up over n turns is rounded by sqrt(n) times as much."""

WORKING = ("user", "nice", "system", "irq", "softirq")
"""Fields of a core's times in which it did something, as psutil calls them."""

BLIND = (
    "This kernel does not tell how long a process waits for a core (no /proc/PID/schedstat: CONFIG_SCHED_INFO is off):"
    " other processes are seen only where they take a third of a core or more, in ticks of 10 ms."
)
"""What a report says then, in one line."""


@dataclass(frozen=True)
class Interference:
    """What went on during the turns of a round that was not the variant's own. Shares are from 0 to 1.

    Attributes:
        others: Share of the cores' time that other processes took: of all usable cores, or of those that the variant
            was bound to, whichever is larger. What the kernel's ticks do not resolve is left out.
        steal: Share that the hypervisor gave to other machines, of that core of the variant's of which it took most;
            0.0 where the system does not tell.
        frequency_mhz: Mean clock of the variant's cores at the end, or None where the system does not tell.
        gpu_clock_mhz: The GPU's clock (SM) at the end, or None where the variant does not run on one.
        waited: How long a thread of the worker was ready to run and had no core; in each turn, the thread that waited
            longest. As a share of the time that the worker was at work, which is all of a turn, and of a control loop
            that of its ticks. None where the kernel does not tell, and in version 0.2.0.
        throttled: How long a control group of the worker's had used up its quota, as such a share.
        preempted: How often a core was taken from a thread of the worker that wanted to go on (involuntary context
            switches); None where the kernel does not tell, and in version 0.2.0.
    """

    others: float
    steal: float
    frequency_mhz: float | None = None
    gpu_clock_mhz: float | None = None
    waited: float | None = None
    throttled: float = 0.0
    preempted: int | None = None

    @property
    def disturbed(self) -> bool:
        """Whether the turns' times are not the variant's alone."""
        return max(self.others, self.steal, self.throttled, self.waited or 0.0) > LIMIT


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, in seconds.

    Attributes:
        moment: When.
        working: How long each core has worked, in the order of their numbers.
        stolen: How long each core was kept from working by the hypervisor.
        ours: Processor time of the worker with its children, and of this process.
        waits: How long each living thread of the worker, by its number, has been ready to run without a core; None
            where the kernel does not tell.
        preemptions: How often a core was taken from each of them.
        throttled: How long the worker's control groups were throttled, of all of them and of all cores together.
    """

    moment: float
    working: Sequence[float]
    stolen: Sequence[float]
    ours: float
    waits: Mapping[int, float] | None = None
    preemptions: Mapping[int, int] = field(default_factory=dict)
    throttled: float = 0.0


class Meter:
    """Measures what a worker suffers in its turns.

    Args:
        pid: The worker's process.
        usable: Logical cores that this machine gives us.
        bound: Those of them that the worker is bound to.
        gpu: Whether the worker runs on a GPU, whose clock is then asked for.
    """

    def __init__(self, pid: int, usable: Sequence[int], bound: Sequence[int], *, gpu: bool = False) -> None:
        import psutil

        self._worker, self._gpu = psutil.Process(pid), gpu
        online = range(psutil.cpu_count() or 1)
        # Where some cores are switched off, the system's list no longer says which line is which core.
        if max(usable) not in online:
            usable = bound = online
        self._usable, self._bound = usable, bound or usable
        self._turns: list[tuple[Reading, Reading]] = []
        self._at_work = 0.0
        self._begin = self._read()

    def begin(self) -> None:
        """Note where the counters stand before a turn."""
        self._begin = self._read()

    def end(self, at_work: float = math.inf) -> None:
        """Note where they stand after it.

        Args:
            at_work: For how many seconds the worker was at work, where it slept for the rest of the turn.
        """
        moment = time.monotonic()  # of the turn; what reading takes is none of it
        self._turns.append((self._begin, replace(self._read(), moment=moment)))
        self._at_work += min(at_work, moment - self._begin.moment)

    def disturbance(self) -> Interference:
        """Return what happened in the turns since this was last asked for; at least one."""
        turns, self._turns, at_work, self._at_work = self._turns, [], self._at_work, 0.0
        # Only now the clocks: asking for them takes processor time itself.
        frequency, gpu_clock = _frequency_mhz(self._bound), nvml.clock_mhz() if self._gpu else None
        return interference(turns, self._usable, self._bound, at_work, frequency, gpu_clock)

    def _read(self) -> Reading:
        import psutil

        # The worker sleeps while this is read, so it does not matter that looking for its children takes a moment.
        waits, preemptions = threads(self._worker.pid)
        ours = _processor_seconds(self._worker) + time.process_time()
        cores, stopped = psutil.cpu_times(percpu=True), throttled()
        return Reading(
            time.monotonic(),
            [sum(getattr(times, name, 0.0) for name in WORKING) for times in cores],
            [getattr(times, "steal", 0.0) for times in cores],
            ours,
            waits,
            preemptions,
            stopped,
        )


def interference(
    turns: Sequence[tuple[Reading, Reading]],
    usable: Sequence[int],
    bound: Sequence[int],
    at_work: float,
    frequency_mhz: float | None = None,
    gpu_clock_mhz: float | None = None,
) -> Interference:
    """Return what happened in turns, of which the counters are given before and after each; at least one.

    Args:
        turns: The readings, in order.
        usable: Logical cores that this machine gives us.
        bound: Those of them that the worker is bound to.
        at_work: For how many seconds the worker was at work in these turns.
        frequency_mhz: As in ``Interference``.
        gpu_clock_mhz: Likewise.
    """
    waits = [_longest(begin.waits, end.waits) for begin, end in turns if begin.waits is not None]
    counts = [sum(_since(begin.preemptions, end.preemptions)) for begin, end in turns]
    told = any(end.preemptions for _, end in turns)

    def share(seconds: float) -> float:
        return min(1.0, seconds / at_work) if at_work else 0.0

    return Interference(
        others=max(_others(turns, usable), _others(turns, bound)),
        steal=_stolen(turns, bound),
        frequency_mhz=frequency_mhz,
        gpu_clock_mhz=gpu_clock_mhz,
        waited=share(sum(waits)) if waits else None,
        throttled=share(sum(end.throttled - begin.throttled for begin, end in turns)),
        preempted=round(sum(counts)) if told else None,
    )


def _others(turns: Sequence[tuple[Reading, Reading]], cores: Sequence[int]) -> float:
    """Return the share of the cores' time in these turns that other processes took, beyond what ticks resolve."""
    available = sum(end.moment - begin.moment for begin, end in turns) * len(cores)
    seconds = 0.0
    for begin, end in turns:
        seconds += sum(end.working[core] - begin.working[core] for core in cores) - (end.ours - begin.ours)
    return min(1.0, max(0.0, seconds - RESOLUTION_S * math.sqrt(len(turns))) / available)


def _stolen(turns: Sequence[tuple[Reading, Reading]], cores: Sequence[int]) -> float:
    """Return the share that the hypervisor certainly took of one of the cores, from the first turn to the last.

    Other variants have their turns in between: it takes from all of them alike, and so it is rounded once.
    """
    (begin, _), (_, end) = turns[0], turns[-1]
    taken = max(end.stolen[core] - begin.stolen[core] for core in cores)
    return min(1.0, max(0.0, taken - TICK_S) / (end.moment - begin.moment))


def _longest(begin: Mapping[int, float] | None, end: Mapping[int, float] | None) -> float:
    """Return how long the thread waited that waited longest in a turn."""
    return max(_since(begin or {}, end or {}), default=0.0)


def _since(begin: Mapping[int, float], end: Mapping[int, float]) -> list[float]:
    """Return what each thread that there is at the end adds; one that ended meanwhile takes its count along.

    A count that is smaller than before belongs to a new thread, which got an old one's number.
    """
    return [count - begin.get(thread, 0) if count >= begin.get(thread, 0) else count for thread, count in end.items()]


def threads(pid: int, root: Path = ROOT) -> tuple[dict[int, float] | None, dict[int, int]]:
    """Return what the living threads of a process suffered since they began, by their numbers.

    Args:
        pid: The process; of one that has ended there is nothing to tell.
        root: Folder of the machine's ``proc``.

    Returns:
        For how many seconds each was ready to run and had no core, or None where the kernel does not tell; and how
        often a core was taken from each.
    """
    waits: dict[int, float] = {}
    preemptions: dict[int, int] = {}
    slices = 0
    for task in (root / f"proc/{pid}/task").glob("[0-9]*"):
        # A thread may end between any two of these lines; then its file reads as empty.
        if (counts := read(task, "schedstat").split())[2:]:
            waits[int(task.name)] = int(counts[1]) / 1e9
            slices += int(counts[2])
        if found := re.search(r"^nonvoluntary_ctxt_switches:\s*(\d+)$", read(task, "status"), re.MULTILINE):
            preemptions[int(task.name)] = int(found[1])
    # A kernel that does not count writes three zeros; but whoever is here has run at least once.
    return waits if slices else None, preemptions


def throttled(root: Path = ROOT) -> float:
    """Return for how many seconds the control groups of this process, which its children share, were throttled."""
    seconds = 0.0
    for folder in {
        folder.resolve() for folder in machine_cores.control_groups(root)
    }:  # "cpu" is a link to "cpu,cpuacct"
        # Version 2 counts microseconds, version 1 nanoseconds.
        for name, unit in (("throttled_usec", 1e6), ("throttled_time", 1e9)):
            if found := re.search(rf"^{name} (\d+)$", read(folder, "cpu.stat"), re.MULTILINE):
                seconds += int(found[1]) / unit
    return seconds


def _processor_seconds(process: psutil.Process) -> float:
    """Processor time of a process, its threads and its children, living and ended."""
    import psutil

    times = process.cpu_times()
    seconds = times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    for child in _descendants(process):
        with suppress(psutil.NoSuchProcess):  # ended meanwhile: its parent counts it from here on
            seconds += sum(child.cpu_times()[:2])
    return seconds


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return the children of a process, and theirs: from the kernel's lists, where it keeps them.

    psutil reads the state of every process on the machine instead, which takes milliseconds, twice a turn.
    """
    import psutil

    try:
        lists = [path.read_text(encoding="utf-8") for path in Path(f"/proc/{process.pid}/task").glob("*/children")]
    except OSError:  # a thread ended meanwhile
        lists = []
    if not lists:
        return process.children(recursive=True)
    found = []
    for pid in " ".join(lists).split():
        with suppress(psutil.NoSuchProcess):
            child = psutil.Process(int(pid))
            found += [child, *_descendants(child)]
    return found


def _frequency_mhz(cores: Sequence[int]) -> float | None:
    import psutil

    try:
        clocks = [clock.current for clock in psutil.cpu_freq(percpu=True)]
    except (AttributeError, NotImplementedError, OSError):  # psutil's answers where a system does not tell
        return None
    chosen = [clocks[core] for core in cores if core < len(clocks)] or clocks
    return sum(chosen) / len(chosen) if chosen else None
