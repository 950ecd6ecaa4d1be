"""Copies of what Linux tells of other machines, written by hand after its documentation: small trees of proc and sys.

Each function writes one machine below a folder. ``write`` takes the files by their names.
"""

from pathlib import Path

CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"
X86 = "processor\t: 0\nmodel name\t: {}\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n"
ARM = "processor\t: {}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: {}\nCPU part\t: {}\nCPU revision\t: 1\n"


def write(root: Path, files: dict[str, object]) -> Path:
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def each(cpus, name: str, value) -> dict[str, object]:
    """One file for each CPU."""
    return {f"{CPU}/cpu{cpu}/{name}": value(cpu) if callable(value) else value for cpu in cpus}


def common(count: int, *, allowed: str = "", memory_kb: int = 16_000_000) -> dict[str, object]:
    every = f"0-{count - 1}"
    return {
        f"{CPU}/online": every,
        f"{CPU}/isolated": "",
        f"{NODE}/node0/cpulist": every,
        "proc/thread-self/status": f"Name:\txfer\nCpus_allowed_list:\t{allowed or every}",
        "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-1.scope",
        "proc/meminfo": f"MemTotal:       {memory_kb} kB",
        "proc/self/mountinfo": "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw",
        "etc/machine-id": "0123456789abcdef0123456789abcdef",
    }


def siblings(cpus, pair) -> dict[str, object]:
    return each(cpus, "topology/thread_siblings_list", pair)


def hybrid(root: Path) -> Path:
    """Intel Core i9-12900K: 8 performance cores of two logical CPUs each (0-15), 8 efficiency cores (16-23)."""
    fast, slow = range(16), range(16, 24)
    return write(
        root,
        {
            **common(24, memory_kb=32_600_000),
            **siblings(fast, lambda cpu: f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"),
            **siblings(slow, lambda cpu: cpu),
            # Two favored cores are faster than the others of their kind.
            **each(fast, "cpufreq/cpuinfo_max_freq", lambda cpu: 5_200_000 if cpu in range(8, 12) else 5_100_000),
            **each(slow, "cpufreq/cpuinfo_max_freq", 3_900_000),
            **each(range(24), "cpufreq/scaling_governor", "powersave"),
            "sys/devices/cpu_core/cpus": "0-15",
            "sys/devices/cpu_atom/cpus": "16-23",
            f"{CPU}/intel_pstate/no_turbo": 0,
            f"{CPU}/smt/active": 1,
            f"{CPU}/smt/control": "on",
            "proc/cpuinfo": X86.format("12th Gen Intel(R) Core(TM) i9-12900K"),
            "sys/class/dmi/id/sys_vendor": "ASUS",
            "sys/class/dmi/id/product_name": "System Product Name",
            "sys/class/dmi/id/board_name": "PRIME Z690-P",
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
            "sys/class/thermal/thermal_zone0/temp": 45_000,
            "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
            "sys/class/thermal/thermal_zone0/trip_point_0_temp": 100_000,
            "sys/firmware/acpi/platform_profile": "balanced",
            "sys/firmware/acpi/platform_profile_choices": "low-power balanced performance",
        },
    )


def half_apart(root: Path) -> Path:
    """AMD Ryzen 7 7700X: 8 physical cores, the siblings of 0-7 are 8-15; everything is set for measuring."""
    return write(
        root,
        {
            **common(16),
            **siblings(range(16), lambda cpu: f"{cpu % 8},{cpu % 8 + 8}"),
            **each(range(16), "cpufreq/cpuinfo_max_freq", 5_400_000),
            **each(range(16), "cpufreq/scaling_governor", "performance"),
            f"{CPU}/cpufreq/boost": 0,
            "proc/cpuinfo": X86.format("AMD Ryzen 7 7700X 8-Core Processor"),
            "sys/class/hwmon/hwmon1/name": "k10temp",
            "sys/class/hwmon/hwmon1/temp1_input": 88_500,
            "sys/class/hwmon/hwmon1/temp1_crit": 95_000,
            "sys/class/hwmon/hwmon1/temp1_label": "Tctl",
            "sys/class/hwmon/hwmon2/name": "nvme",
            "sys/class/hwmon/hwmon2/temp1_input": 84_000,
            "sys/class/hwmon/hwmon2/temp1_crit": 84_850,
            "sys/firmware/acpi/platform_profile": "performance",
        },
    )


def two_sockets(root: Path, *, allowed: str = "") -> Path:
    """Two Intel Xeons of 32 cores: node 0 has 0-31 and their siblings 64-95, node 1 the others."""
    return write(
        root,
        {
            **common(128, allowed=allowed, memory_kb=527_000_000),
            **siblings(range(128), lambda cpu: f"{cpu % 64},{cpu % 64 + 64}"),
            **each(range(128), "cpufreq/cpuinfo_max_freq", 3_500_000),
            f"{NODE}/node0/cpulist": "0-31,64-95",
            f"{NODE}/node1/cpulist": "32-63,96-127",
            "proc/cpuinfo": X86.format("Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz"),
        },
    )


def container(root: Path, quota: str = "100000 100000", *, machine_id: str = "0123") -> Path:
    """A container of cgroup version 2 with ``--cpus``, on 64 cores of which it may use all."""
    return write(
        root,
        {
            **common(64),
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/cpu.max": quota,
            "proc/self/mountinfo": "612 558 0:54 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/var/lib",
            "etc/machine-id": machine_id,
            "proc/cpuinfo": X86.format("AMD EPYC 9R14"),
            "sys/class/dmi/id/sys_vendor": "Amazon EC2",
            "sys/class/dmi/id/product_name": "m7a.16xlarge",
        },
    )


def container_v1(root: Path) -> Path:
    """The same with cgroup version 1: the path is the host's, the folder the container's own; 2.5 CPUs."""
    return write(
        root,
        {
            **common(64),
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/71b3f8b725dd\n3:cpuset:/docker/71b3f8b725dd\n0::/",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": 250_000,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100_000,
        },
    )


def arm(root: Path, model: str, parts: list[tuple[str, str]], serial: str = "", **options) -> Path:
    """A board with a device tree and these cores: (implementer, part number) of each."""
    cpuinfo = "\n".join(ARM.format(number, *part) for number, part in enumerate(parts))
    files = {**common(len(parts), **options), "proc/cpuinfo": cpuinfo, **siblings(range(len(parts)), lambda cpu: cpu)}
    if model:
        files["proc/device-tree/model"] = f"{model}\0"
    if serial:
        files["proc/device-tree/serial-number"] = f"{serial}\0"
    return write(root, files)


def rk3588(root: Path) -> Path:
    """Radxa ROCK 5B: four Cortex-A55 (0-3), then two pairs of Cortex-A76 that may be of different bins."""
    arm(root, "Radxa ROCK 5B", [("0x41", "0xd05")] * 4 + [("0x41", "0xd0b")] * 4)
    capacity = {4: 1024, 5: 1024, 6: 1000, 7: 1000}
    return write(root, each(range(8), "cpu_capacity", lambda cpu: capacity.get(cpu, 530)))


def jetson(root: Path, *, mode: int = 2, serial: str = "1424021016387") -> Path:
    """NVIDIA Jetson AGX Orin: twelve Cortex-A78AE in a power model of its own."""
    arm(root, "NVIDIA Jetson AGX Orin Developer Kit", [("0x41", "0xd42")] * 12, serial, memory_kb=31_000_000)
    gpu = "sys/class/devfreq/17000000.gpu"
    return write(
        root,
        {
            **each(range(12), "cpu_capacity", 1024),
            **each(range(12), "cpufreq/scaling_governor", "schedutil"),
            "var/lib/nvpmodel/status": f"pmode:000{mode} fmode:quiet",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=30W >",
            f"{gpu}/cur_freq": 306_000_000,
            f"{gpu}/min_freq": 306_000_000,
            f"{gpu}/max_freq": 1_300_500_000,
        },
    )


def tx2(root: Path) -> Path:
    """NVIDIA Jetson TX2: Denver 2 (1, 2) and Cortex-A57 (0, 3-5), of the same clock and capacity."""
    arm(root, "quill", [("0x41", "0xd07"), *[("0x4e", "0x003")] * 2, *[("0x41", "0xd07")] * 3])
    midr = {1: "0x000000004e0f0030", 2: "0x000000004e0f0030"}
    return write(
        root,
        {
            **each(range(6), "regs/identification/midr_el1", lambda cpu: midr.get(cpu, "0x00000000411fd073")),
            **each(range(6), "cpufreq/cpuinfo_max_freq", 2_035_200),
        },
    )


def raspberry(root: Path, *, serial: str = "10000000a1b2c3d4", **options) -> Path:
    """Raspberry Pi 5: four Cortex-A76, with too weak a supply."""
    arm(root, "Raspberry Pi 5 Model B Rev 1.0", [("0x41", "0xd0b")] * 4, serial, **{"memory_kb": 8_060_000, **options})
    return write(root, {"sys/devices/platform/soc/soc:firmware/get_throttled": 50005})
