"""Counters of energy: of the processor (RAPL, as Linux's powercap shows it) and of an NVIDIA GPU (NVML).

    Counter.of_processor(root)   packages and their memory, of all sockets
    Counter.of_gpu()             the first GPU
    counter.joules()             since the counter was opened
    Meter(gpu=True)              adds up stretches of time, of what can be read here

Sources: Linux, Documentation/power/powercap/powercap.rst; NVML, nvmlDeviceGetTotalEnergyConsumption (Volta and newer).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.libraries import nvml
from export.libraries.linux import ROOT, integer, read
from xfer.errors import UnavailableError

ZONES = "sys/class/powercap"


class Counter:
    """Joules since this was made, from meters that begin again at 0 when they are full.

    Args:
        meters: What reads each meter, in joules, and how many joules it holds.
    """

    def __init__(self, meters: list[tuple[Callable[[], float], float]]) -> None:
        self._meters = meters
        self._last = [read_now() for read_now, _ in meters]
        self._sum = 0.0

    def joules(self) -> float:
        """Return how much was used; to be asked before a meter can have gone round twice, which takes a minute."""
        now = [read_now() for read_now, _ in self._meters]
        for (_, full), before, after in zip(self._meters, self._last, now, strict=True):
            self._sum += (after - before) % full
        self._last = now
        return self._sum

    @classmethod
    def of_processor(cls, root: Path = ROOT) -> Counter:
        """Open the meters of all processor packages and of their memory; a package's cores are part of it.

        Raises:
            UnavailableError: If there is none that can be read, with the reason and, where there is one, the remedy.
        """
        found = sorted((root / ZONES).glob("*-rapl:*"))
        zones = [zone for zone in found if read(zone, "name").startswith(("package", "dram"))]
        if not zones:
            virtual = " hypervisor" in read(root, "proc/cpuinfo")
            where = (
                "a virtual machine, which gets none of its host's" if virtual else "a kernel or processor without any"
            )
            raise UnavailableError(f"no counter of energy (RAPL) in /{ZONES}: this is {where}")
        meters: list[tuple[Callable[[], float], float]] = []
        for zone in zones:
            full = integer(zone, "max_energy_range_uj")
            if integer(zone, "energy_uj") is None or not full:
                readable = f"sudo chmod a+r /{ZONES}/*/energy_uj"
                raise UnavailableError(f"the counters of energy (RAPL) can be read by root only: {readable}")
            meters.append((lambda zone=zone: (integer(zone, "energy_uj") or 0) / 1e6, full / 1e6))  # type: ignore[misc]
        return cls(meters)

    @classmethod
    def of_gpu(cls) -> Counter:
        """Open the meter of the first NVIDIA GPU.

        Raises:
            UnavailableError: If there is no GPU, or one that does not count.
        """
        nvml.joules()
        return cls([(nvml.joules, float("inf"))])


@dataclass(frozen=True)
class Energy:
    """What was used while something ran.

    Attributes:
        joules: Energy, that of idle parts of the same processor and GPU included.
        seconds: How long.
        meters: Whose: ``processor``, ``GPU``.
    """

    joules: float
    seconds: float
    meters: tuple[str, ...]

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.joules / self.seconds


class Meter:
    """Adds up the energy of several stretches of time.

    Args:
        gpu: Whether the GPU's is asked for too.
        root: Folder of the machine's ``sys``.

    Attributes:
        why_not: Why what has no meter has none, a sentence each.
    """

    def __init__(self, *, gpu: bool = False, root: Path = ROOT) -> None:
        self._counters: dict[str, Counter] = {}
        self.why_not: list[str] = []
        asked: dict[str, Callable[[], Counter]] = {"processor": lambda: Counter.of_processor(root)}
        for name, counter in (asked | ({"GPU": Counter.of_gpu} if gpu else {})).items():
            try:
                self._counters[name] = counter()
            except UnavailableError as error:
                self.why_not.append(str(error))
        self._joules = self._seconds = 0.0

    def begin(self) -> None:
        """Begin a stretch."""
        self._before, self._began = self._read(), time.monotonic()

    def end(self) -> None:
        """End it."""
        self._seconds += time.monotonic() - self._began
        self._joules += self._read() - self._before

    def _read(self) -> float:
        return sum(counter.joules() for counter in self._counters.values())

    def energy(self) -> Energy | None:
        """Return the sum so far, or None without a meter."""
        if not self._counters or not self._seconds:
            return None
        return Energy(self._joules, self._seconds, tuple(self._counters))
