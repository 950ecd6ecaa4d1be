"""What else went on while one variant had its turns: other processes, the hypervisor, the clocks.

All readings are taken by the parent, before and after a turn: nothing of xfer's own runs beside the variant.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.libraries import nvml

if TYPE_CHECKING:
    import psutil

MAX_OTHERS = 0.05
"""Share of the cores' time. A quiet machine's daemons take 1 to 2 %; one busy process beside a variant on two
cores takes 25 to 50 %. What takes less than 5 % moves a median by less than what counts as unstable."""

MAX_STEAL = 0.05
"""Likewise for what the hypervisor takes away."""

RESOLUTION_S = 0.02
"""The kernel counts in ticks of 10 ms, and rounds at both ends of a turn: less than this is no evidence. What is added
up over n turns is rounded by sqrt(n) times as much."""

WORKING = ("user", "nice", "system", "irq", "softirq")
"""Fields of a core's times in which it did something, as psutil calls them."""


@dataclass(frozen=True)
class Interference:
    """What else went on during the turns of a round.

    Attributes:
        others: Share of the cores' time that other processes took, 0 to 1: of all usable cores, or of those that
            the variant was bound to, whichever is larger.
        steal: Share that the hypervisor gave to other machines, likewise; 0.0 where the system does not tell.
        frequency_mhz: Mean clock of the variant's cores at the end, or None where the system does not tell.
        gpu_clock_mhz: The GPU's clock (SM) at the end, or None where the variant does not run on one.
    """

    others: float
    steal: float
    frequency_mhz: float | None = None
    gpu_clock_mhz: float | None = None

    @property
    def disturbed(self) -> bool:
        """Whether the turns' times are not the variant's alone."""
        return self.others > MAX_OTHERS or self.steal > MAX_STEAL


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, in seconds.

    Attributes:
        moment: When.
        working: How long each core has worked, in the order of their numbers.
        stolen: How long each core was kept from working by the hypervisor.
        ours: Processor time of the worker with its children, and of this process.
    """

    moment: float
    working: list[float]
    stolen: list[float]
    ours: float


class Meter:
    """Measures what else goes on while a worker has its turn.

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
        self._begin = self._read()

    def begin(self) -> None:
        """Note where the counters stand before a turn."""
        self._begin = self._read()

    def end(self) -> None:
        """Note where they stand after it."""
        self._turns.append((self._begin, self._read()))

    def disturbance(self) -> Interference:
        """Return what happened in the turns since this was last asked for; at least one."""
        turns, self._turns = self._turns, []
        # Only now the clocks: asking for them takes processor time itself.
        frequency, gpu_clock = _frequency_mhz(self._bound), nvml.clock_mhz() if self._gpu else None
        (others, steal), (others_bound, steal_bound) = (shares(turns, cores) for cores in (self._usable, self._bound))
        return Interference(max(others, others_bound), max(steal, steal_bound), frequency, gpu_clock)

    def _read(self) -> Reading:
        import psutil

        # The worker sleeps while this is read, so it does not matter that looking for its children takes a moment.
        ours = _processor_seconds(self._worker) + time.process_time()
        cores = psutil.cpu_times(percpu=True)
        return Reading(
            time.monotonic(),
            [sum(getattr(times, name, 0.0) for name in WORKING) for times in cores],
            [getattr(times, "steal", 0.0) for times in cores],
            ours,
        )


def shares(turns: Sequence[tuple[Reading, Reading]], cores: Sequence[int]) -> tuple[float, float]:
    """Return which shares of the cores' time in these turns other processes and the hypervisor took."""
    available = sum(end.moment - begin.moment for begin, end in turns) * len(cores)
    others = stolen = 0.0
    for begin, end in turns:
        others += sum(end.working[core] - begin.working[core] for core in cores) - (end.ours - begin.ours)
        stolen += sum(end.stolen[core] - begin.stolen[core] for core in cores)

    def share(seconds: float) -> float:
        return min(1.0, max(0.0, seconds - RESOLUTION_S * math.sqrt(len(turns))) / available)

    return share(others), share(stolen)


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
