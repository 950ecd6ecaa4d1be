"""The machine that a record belongs to: its kind decides how a variant acts, the machine itself how fast."""

from __future__ import annotations

import hashlib
import hmac
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from export.libraries import cores
from export.libraries.linux import ROOT, in_container, read

DEVICE_TREE = "proc/device-tree"
WIDEST = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimddp", "asimd")
"""Vector extensions, the one first that decides which kernels a runtime takes."""

ARM_PARTS = {
    "0x41": {
        "0xd03": "Cortex-A53",
        "0xd04": "Cortex-A35",
        "0xd05": "Cortex-A55",
        "0xd07": "Cortex-A57",
        "0xd08": "Cortex-A72",
        "0xd09": "Cortex-A73",
        "0xd0a": "Cortex-A75",
        "0xd0b": "Cortex-A76",
        "0xd0c": "Neoverse-N1",
        "0xd40": "Neoverse-V1",
        "0xd41": "Cortex-A78",
        "0xd42": "Cortex-A78AE",
        "0xd44": "Cortex-X1",
        "0xd46": "Cortex-A510",
        "0xd47": "Cortex-A710",
        "0xd49": "Neoverse-N2",
        "0xd4f": "Neoverse-V2",
        "0xd80": "Cortex-A520",
        "0xd81": "Cortex-A720",
        "0xd83": "Neoverse-V3AE",
        "0xd84": "Neoverse-V3",
    },
    "0x4e": {"0x003": "Denver 2", "0x004": "Carmel"},
    "0xc0": {"0xac3": "Ampere-1", "0xac4": "Ampere-1a"},
}
"""Names of ARM processors by implementer and part number, as in arch/arm64/include/asm/cputype.h of Linux."""


@dataclass(frozen=True)
class Machine:
    """What a figure depends on.

    How many cores a process may use is no part of either name below: a bench says for itself what it was bound to.

    Attributes:
        processor: Model name; on ARM the board's model and its cores, as their system names no processor.
        cores: Logical cores that this process may use.
        instruction_set: The widest vector extension, as ``avx512_vnni``.
        memory_bytes: Installed memory.
        system: Operating system and its version.
        python: Version of Python.
        gpu: Model name and driver, or empty.
        board: Maker and model of the board, or of the cloud's machine type.
        power_mode: What the system was told to be: NVIDIA's power model, or the firmware's profile.
        host: Digest over what lasts as long as the machine: its serial number, and machine-id outside of containers.
            Empty where nothing lasts; None in what version 0.2.0 wrote.
    """

    processor: str
    cores: int
    instruction_set: str
    memory_bytes: int
    system: str
    python: str
    gpu: str = ""
    board: str = ""
    power_mode: str = ""
    host: str | None = None

    @property
    def kind(self) -> str:
        """Name of all machines on which the same files and libraries act alike: verdicts are of a kind."""
        return f"{self._slug}-{_digest(self.processor, self.instruction_set, self.gpu)[:6]}"

    @property
    def id(self) -> str:
        """Name of this machine's records: latencies are of one machine. Versions of software are no part of it."""
        if self.host is None:
            return self.id_v020
        itself = _digest(self.board, str(_memory_size(self.memory_bytes)), self.power_mode, self.host)
        return f"{self.kind}-{itself[:8]}"

    @property
    def id_v020(self) -> str:
        """Name that version 0.2.0 gave to its records; machines of a kind shared it."""
        return f"{self._slug}-{_digest(self.processor, str(self.cores), self.instruction_set, self.gpu)[:6]}"

    @property
    def _slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.processor.lower()).strip("-")[:40]


def _digest(*facts: str) -> str:
    return hashlib.sha256("|".join(facts).encode()).hexdigest()


def _memory_size(size: int) -> int:
    """Round up to 2, 3, 4, 6, 8, 12 ...: what a kernel keeps for itself changes from boot to boot."""
    power: int = 1 << max(size - 1, 0).bit_length()
    return power * 3 // 4 if size <= power * 3 // 4 else power


@cache
def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    return describe(gpu=_gpu())


def describe(root: Path = ROOT, *, gpu: str = "") -> Machine:
    """Describe a machine by what Linux tells of it.

    Args:
        root: Folder of its ``proc``, ``sys`` and ``etc``.
        gpu: Its GPU: model name and driver.
    """
    cpuinfo = read(root, "proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", read(root, "proc/meminfo"), re.MULTILINE)
    return Machine(
        processor=_processor(root, cpuinfo),
        cores=len(cores.usable_cores(root)),
        instruction_set=next((name for name in WIDEST if flags and name in flags[1].split()), platform.machine()),
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gpu=gpu,
        board=_board(root),
        power_mode=power_mode(root),
        host=_host(root),
    )


def _processor(root: Path, cpuinfo: str) -> str:
    implementers, parts = (
        re.findall(rf"^CPU {name}\s*: (\w+)$", cpuinfo, re.MULTILINE) for name in ("implementer", "part")
    )
    model = read(root, f"{DEVICE_TREE}/model")
    if implementers:  # ARM; a "model name" is the architecture's there
        pairs = sorted(set(zip(implementers, parts, strict=False)))
        names = " + ".join(ARM_PARTS.get(who, {}).get(part, f"ARM {who}/{part}") for who, part in pairs)
        return f"{model} ({names})" if model else names
    named = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    return named[1].strip() if named else model or platform.processor() or platform.machine()


def _board(root: Path) -> str:
    if model := read(root, f"{DEVICE_TREE}/model"):
        return model
    firmware = (read(root, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name", "board_name"))
    return " ".join(dict.fromkeys(filter(None, firmware)))


def power_mode(root: Path = ROOT) -> str:
    """Return what the system was told to be: a Jetson's power model, a PC firmware's profile, or an empty string."""
    if mode := re.search(r"^pmode:0*(\d+)", read(root, "var/lib/nvpmodel/status"), re.MULTILINE):
        return f"nvpmodel {mode[1]} {power_models(root).get(mode[1], '')}".rstrip()
    return read(root, "sys/firmware/acpi/platform_profile")


def power_models(root: Path = ROOT) -> dict[str, str]:
    """Return the names of a Jetson's power models by their numbers."""
    return dict(re.findall(r"^< *POWER_MODEL ID=(\d+) NAME=([\w.]+)", read(root, "etc/nvpmodel.conf"), re.MULTILINE))


def _host(root: Path) -> str:
    lasting = "" if in_container(root) else read(root, "etc/machine-id").removeprefix("uninitialized")
    serial = read(root, f"{DEVICE_TREE}/serial-number")
    # machine-id(5) asks not to be told to others: a bundle may be published.
    return hmac.digest(f"{lasting}|{serial}".encode(), b"xfer", "sha256").hex()[:16] if lasting or serial else ""


def _gpu() -> str:
    """Name and driver of the first NVIDIA GPU, or empty. Asks the driver's own tool: it needs no torch."""
    import shutil
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, encoding="utf-8", check=False, timeout=30)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout else ""
