"""What Linux tells of a machine in ``/proc`` and ``/sys``. Readers take a root: a copy of another machine's will do."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from xfer.errors import UnavailableError

ROOT = Path("/")
"""The tree of the machine that this process runs on."""

CPU = "sys/devices/system/cpu"


def require(what: str) -> None:
    """Check that this is Linux.

    Args:
        what: What needs it, as the beginning of a sentence.

    Raises:
        UnavailableError: If it is another system.
    """
    system = platform.system()
    if system != "Linux":
        raise UnavailableError(f"{what} needs Linux (its counters, and processes bound to cores); this is {system}.")


def read(root: Path, name: str) -> str:
    """Return the text of a file below a root; empty where there is none, or the kernel does not tell."""
    try:
        return (root / name).read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")
    except OSError:
        return ""


def integer(root: Path, name: str) -> int | None:
    """Return the number that a file begins with, or None."""
    found = re.match(r"-?\d+", read(root, name))
    return int(found[0]) if found else None


def numbers(listed: str) -> tuple[int, ...]:
    """Return the numbers of a list as the kernel writes it.

    Example:
        >>> numbers("0-2,8")
        (0, 1, 2, 8)
    """
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", listed):
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def spans(cpus: tuple[int, ...]) -> str:
    """Return numbers as the kernel lists them.

    Example:
        >>> spans((0, 1, 2, 8))
        '0-2,8'
    """
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def in_container(root: Path = ROOT) -> bool:
    """Whether this is a container, whose files (``/etc/machine-id`` among them) may end with it."""
    if any((root / name).exists() for name in (".dockerenv", "run/.containerenv", "run/systemd/container")):
        return True
    if re.search(r"docker|kubepods|containerd|libpod", read(root, "proc/self/cgroup")):
        return True
    # Fields of a mount: ID, parent, device, root, where, options, then after a dash the file system.
    return bool(re.search(r"^\S+ \S+ \S+ \S+ / .* - overlay ", read(root, "proc/self/mountinfo"), re.MULTILINE))
