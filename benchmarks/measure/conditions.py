"""What about the machine moves latencies, and the command that mends it: ``xfer bench --check``, and part of a report.

Sources: Linux, admin-guide/pm/cpufreq.rst and intel_pstate.rst (governor, no_turbo, boost),
Documentation/ABI/testing/sysfs-devices-system-cpu (smt, isolated), driver-api/thermal/sysfs-api.rst,
Documentation/ABI/testing/sysfs-class-devfreq and sysfs-platform_profile.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.bundle.machine import power_mode, power_models
from export.commands.console import advice
from export.libraries import cores as machine_cores
from export.libraries import cuda, nvml
from export.libraries.linux import CPU, ROOT, integer, numbers, read, spans
from export.libraries.nvml import Gpu
from xfer.errors import UnavailableError

State = Literal["good", "mend", "unknown", "impossible"]

HOT = 10.0
"""Degrees Celsius below the temperature at which a processor slows down."""

NEAR = 0.95
"""Share of its highest clock from which a GPU's clock counts as held there."""

ALL_GOVERNORS = f"/{CPU}/cpu*/cpufreq/scaling_governor"


@dataclass(frozen=True)
class Condition:
    """One thing about a machine.

    Attributes:
        name: What, as ``governor``.
        state: ``good``; ``mend`` if it moves latencies; ``unknown`` where the system does not tell; ``impossible`` if
            what was asked for cannot be had.
        found: What was found, in words.
        mend: The command that mends it, or empty.
    """

    name: str
    state: State
    found: str
    mend: str = ""


def check(
    bound: Sequence[int], threads: int, *, on_gpu: bool = False, root: Path = ROOT, gpu: Gpu | str | None = None
) -> tuple[Condition, ...]:
    """Look at everything.

    Args:
        bound: Logical CPUs that a bench is bound to.
        threads: Its threads.
        on_gpu: Whether a variant was asked for that runs on a GPU.
        root: Folder of the machine's ``proc`` and ``sys``.
        gpu: State of its NVIDIA GPU, or why there is none; None asks the driver.
    """
    cpus = tuple(sorted(bound))
    return (
        _cores(cpus, threads, root),
        _container(threads, root),
        _governor(cpus, root),
        _turbo(cpus, root),
        _siblings(cpus, root),
        _isolated(cpus, threads, root),
        _temperature(cpus, root),
        _power(root),
        *_gpu(_state_of_gpu(root) if gpu is None else gpu, root, needed=on_gpu),
    )


def _cores(cpus: tuple[int, ...], threads: int, root: Path) -> Condition:
    """Whether they are one logical CPU a physical core, of the fastest kind, on one node."""
    best = machine_cores.by_preference(root)
    kinds, nodes = machine_cores.kinds_of(best, root), machine_cores.nodes_of(best, root)
    chosen = [cpu for cpu in cpus if cpu in kinds]
    wrong = []
    if any(len(set(machine_cores.siblings(cpu, root)) & set(cpus)) > 1 for cpu in cpus):
        wrong.append("some are siblings of one physical core")
    if any(kinds[cpu] != min(kinds.values()) for cpu in chosen):
        wrong.append("some are of a slower kind")
    if len({nodes[cpu] for cpu in chosen}) > 1:
        wrong.append("of several NUMA nodes")
    words = f"{spans(cpus)} of {spans(machine_cores.usable_cores(root))}"
    if not wrong:
        return Condition("cores", "good", f"{words}, one a physical core, of the fastest kind, on one node")
    most = min(threads, machine_cores.default_threads(root))
    mend = f"xfer bench BUNDLE --threads {most} --cores {','.join(map(str, sorted(best[:most])))}"
    return Condition("cores", "mend", f"{words}: {', '.join(wrong)}", mend)


def _container(threads: int, root: Path) -> Condition:
    """Whether its control groups allow as much processor time as the threads take."""
    quota = machine_cores.quota(root)
    if quota is None:
        return Condition("container", "good", "no limit on processor time")
    words = f"processor time of {quota:g} CPUs, threads: {threads}"
    if threads <= quota:
        return Condition("container", "good", words)
    asked = threads > machine_cores.default_threads(root)
    mend = f"docker update --cpus {threads} CONTAINER"
    return Condition("container", "impossible" if asked else "mend", f"{words}; they are throttled", mend)


def _governor(cpus: tuple[int, ...], root: Path) -> Condition:
    governors = {read(root, f"{CPU}/cpu{cpu}/cpufreq/scaling_governor") for cpu in cpus} - {""}
    if not governors:
        return Condition("governor", "unknown", "none to be seen, as in most virtual machines")
    words = ", ".join(sorted(governors))
    if governors == {"performance"}:
        return Condition("governor", "good", words)
    return Condition("governor", "mend", words, f"echo performance | sudo tee {ALL_GOVERNORS}")


def _turbo(cpus: tuple[int, ...], root: Path) -> Condition:
    """Whether clocks go up to what they cannot hold."""
    each = f"{CPU}/cpu{cpus[0]}/cpufreq/boost" if cpus else ""
    for name, off, everywhere in (
        (f"{CPU}/intel_pstate/no_turbo", 1, ""),
        (f"{CPU}/cpufreq/boost", 0, ""),
        (each, 0, f"{CPU}/cpu*/cpufreq/boost"),
    ):
        value = integer(root, name)
        if value == off:
            return Condition("turbo", "good", "off")
        if value is not None:
            words = "on: clocks depend on heat and on what other cores do"
            return Condition("turbo", "mend", words, f"echo {off} | sudo tee /{everywhere or name}")
    return Condition("turbo", "unknown", "none to be seen")


def _siblings(cpus: tuple[int, ...], root: Path) -> Condition:
    """Whether a second logical CPU of the same physical core can take arithmetic away."""
    online = numbers(read(root, f"{CPU}/online"))
    beside = {sibling for cpu in cpus for sibling in machine_cores.siblings(cpu, root)} - set(cpus)
    beside = {cpu for cpu in beside if cpu in online}
    if not beside:
        return Condition("SMT", "good", "no sibling of these cores is on")
    words = f"on: whatever runs on {spans(tuple(beside))} takes from these cores"
    return Condition("SMT", "mend", words, f"echo off | sudo tee /{CPU}/smt/control")


def _isolated(cpus: tuple[int, ...], threads: int, root: Path) -> Condition:
    """Whether the scheduler keeps other programs away."""
    isolated, online = numbers(read(root, f"{CPU}/isolated")), numbers(read(root, f"{CPU}/online"))
    name = "isolation"
    if isolated and not set(cpus) <= set(isolated):
        mend = f"taskset -c {spans(isolated)} xfer bench BUNDLE --threads 1"
        return Condition(name, "mend", f"cores {spans(isolated)} are isolated, and not used", mend)
    if isolated and threads > 1:
        words = "isolated: the kernel does not spread threads over them, all stay on one"
        return Condition(name, "mend", words, f"xfer bench BUNDLE --cores {cpus[-1]} --threads 1")
    if isolated:
        return Condition(name, "good", f"core {spans(cpus)} is isolated")
    rest = tuple(cpu for cpu in online if cpu not in cpus)
    if not rest:
        mend = f"xfer bench BUNDLE --threads {len(cpus) - 1}" if len(cpus) > 1 else ""
        return Condition(name, "mend", "none, and no core is left for other programs", mend)
    # Not isolcpus: the kernel would keep all threads of a process on one of those cores.
    mend = f"sudo systemctl set-property --runtime system.slice AllowedCPUs={spans(rest)}"
    return Condition(name, "mend", "none: services run on these cores too", mend)


def _temperature(cpus: tuple[int, ...], root: Path) -> Condition:
    """How far the hottest part is from where it slows down."""
    found = hottest(root)
    if found is None:
        return Condition("temperature", "unknown", "no sensor to be seen")
    limit, degrees, name = found
    slowed = slowdowns(cpus, root)
    words = f"{name} {degrees:.0f} °C, slows down at {limit:.0f} °C"
    words += f"; slowed down {slowed:,} times since the start" if slowed else ""
    cool = limit - degrees > HOT
    return Condition("temperature", "good" if cool else "mend", words, "" if cool else "sleep 300")


Reading = tuple[float, float, str]
"""Where a sensor's part slows down, where it is now, both in degrees Celsius, and its name."""


def hottest(root: Path = ROOT) -> Reading | None:
    """Return the part that is nearest to its limit, or None without a sensor."""
    return min((*_zones(root), *_sensors(root)), key=lambda one: one[0] - one[1], default=None)


def slowdowns(cpus: Sequence[int], root: Path = ROOT) -> int:
    """Return how often these logical CPUs slowed down for heat since the machine started."""
    return sum(integer(root, f"{CPU}/cpu{cpu}/thermal_throttle/core_throttle_count") or 0 for cpu in cpus)


def _zones(root: Path) -> list[Reading]:
    found = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*"):
        degrees = integer(zone, "temp")
        trips = [path.name.removesuffix("_type") for path in zone.glob("trip_point_*_type")]
        slowing = [trip for trip in trips if read(zone, f"{trip}_type") in ("passive", "hot", "critical")]
        limits = [limit for trip in slowing if (limit := integer(zone, f"{trip}_temp")) is not None and limit > 0]
        if degrees is not None and degrees > 0 and limits:
            found.append((min(limits) / 1000, degrees / 1000, read(zone, "type")))
    return found


def _sensors(root: Path) -> list[Reading]:
    """Processors' own sensors, which not every machine has as a thermal zone."""
    found = []
    for chip in (root / "sys/class/hwmon").glob("hwmon*"):
        if read(chip, "name") not in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            continue
        for path in chip.glob("temp*_input"):
            sensor = path.name.removesuffix("_input")
            degrees, limit = integer(chip, path.name), integer(chip, f"{sensor}_max") or integer(chip, f"{sensor}_crit")
            if degrees is not None and limit:
                found.append((limit / 1000, degrees / 1000, read(chip, f"{sensor}_label") or read(chip, "name")))
    return found


def _power(root: Path) -> Condition:
    """What the system was told to be, and whether its supply is enough."""
    name, mode = "power mode", power_mode(root)
    throttled = read(root, "sys/devices/platform/soc/soc:firmware/get_throttled")
    if throttled.strip("0x"):
        return Condition(name, "mend", f"Raspberry Pi: undervoltage or heat (0x{throttled}): a stronger supply, a fan")
    supplies = [path.parent for path in (root / "sys/class/power_supply").glob("*/type")]
    on_battery = any((read(one, "type"), read(one, "status")) == ("Battery", "Discharging") for one in supplies)
    words = f"{mode or 'none to be seen'}{', on battery: plug it in' if on_battery else ''}"
    if mode.startswith("nvpmodel"):
        most = next((number for number, model in power_models(root).items() if "MAXN" in model), "0")
        full = mode.split()[1] == most
        return Condition(name, "good" if full else "mend", words, "" if full else f"sudo nvpmodel -m {most}")
    offered = read(root, "sys/firmware/acpi/platform_profile_choices").split()
    if mode in ("low-power", "cool", "quiet", "balanced", "balanced-performance") and "performance" in offered:
        return Condition(name, "mend", words, "echo performance | sudo tee /sys/firmware/acpi/platform_profile")
    return Condition(name, "mend" if on_battery else "good" if mode else "unknown", words)


def _state_of_gpu(root: Path) -> Gpu | str:
    try:
        return nvml.first_gpu()
    except UnavailableError as error:
        return str(error) if (root / "proc/driver/nvidia").exists() else "no NVIDIA driver is loaded"


def _gpu(gpu: Gpu | str, root: Path, *, needed: bool) -> list[Condition]:
    """The GPU and its clocks; one that is part of the chip, as a Jetson's, is told by the kernel."""
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        if re.search(r"gpu|g[pv]1[01]b|ga10b", device.name):
            return [Condition("GPU", "good", device.name), _devfreq(device)]
    if isinstance(gpu, str):
        why_not = _no_cuda() if needed else ""
        what, mend = advice(why_not or gpu)[0]
        return [Condition("GPU", "impossible" if why_not else "unknown", what, mend)]
    slowdown = gpu.slowdown_temperature
    words = f"{gpu.name}, {gpu.temperature} °C{f', slows down at {slowdown} °C' if slowdown else ''}"
    hot = slowdown is not None and slowdown - gpu.temperature <= HOT
    return [Condition("GPU", "mend" if hot else "good", words, "sleep 300" if hot else ""), _clocks(gpu)]


def _clocks(gpu: Gpu) -> Condition:
    """NVML does not tell a lock; but clocks that stay up while nothing runs are held."""
    words = f"{gpu.clock_mhz} of {gpu.most_mhz} MHz"
    words += f", kept down by {', '.join(gpu.slowed_by)}" if gpu.slowed_by else ""
    if gpu.clock_mhz >= NEAR * gpu.most_mhz and not gpu.idle and not gpu.slowed_by:
        return Condition("GPU clocks", "good", f"{words}, held")
    lock = f"sudo nvidia-smi --lock-gpu-clocks={gpu.most_mhz},{gpu.most_mhz}"
    return Condition("GPU clocks", "mend", f"{words}, not locked", lock)


def _devfreq(device: Path) -> Condition:
    now, least, most = (integer(device, f"{name}_freq") for name in ("cur", "min", "max"))
    if now is None or least is None or most is None:
        return Condition("GPU clocks", "unknown", "none to be seen")
    words = f"{now // 10**6} of {most // 10**6} MHz"
    if least == most:
        return Condition("GPU clocks", "good", f"{words}, locked")
    lock = f"echo {most} | sudo tee /sys/class/devfreq/{device.name}/min_freq"
    return Condition("GPU clocks", "mend", f"{words}, not locked", lock)


def _no_cuda() -> str:
    try:
        cuda.compute_capability()
    except UnavailableError as error:
        return str(error)
    return ""
