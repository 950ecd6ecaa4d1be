"""The machine that a record belongs to."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What a figure depends on.

    Attributes:
        processor: Model name.
        cores: Logical cores that this process may use.
        instruction_set: The widest vector extension, as ``avx512_vnni``.
        memory_bytes: Installed memory.
        system: Operating system and its version.
        python: Version of Python.
        gpu: Model name and driver, or empty.
    """

    processor: str
    cores: int
    instruction_set: str
    memory_bytes: int
    system: str
    python: str
    gpu: str = ""

    @property
    def id(self) -> str:
        """Name of the machine's record: processor, and a digest over all but versions of software."""
        facts = f"{self.processor}|{self.cores}|{self.instruction_set}|{self.gpu}"
        slug = re.sub(r"[^a-z0-9]+", "-", self.processor.lower()).strip("-")[:40]
        return f"{slug}-{hashlib.sha256(facts.encode()).hexdigest()[:6]}"


@cache
def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = set(re.search(r"^(?:flags|Features)\s*: (.*)$", text + "\nflags : ", re.MULTILINE)[1].split())  # type: ignore[index]
    widest = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "asimddp", "asimd")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        processor=model[1].strip() if model else platform.processor() or platform.machine(),
        cores=cores,
        instruction_set=next((name for name in widest if name in flags), platform.machine()),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gpu=_gpu(),
    )


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
