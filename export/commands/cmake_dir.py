"""What `xfer cmake-dir` does: say where CMake finds the C++ runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xfer.commands import Common


@dataclass(kw_only=True)
class Args(Common):
    """Print the folder that CMake needs to find the C++ runtime.

    Its sources are part of this installation.

    Example commands:
      cmake -S . -B build -Dxfer_DIR="$(xfer cmake-dir)"
    """


def main(args: Args) -> dict[str, Any]:
    """Print the folder, and return the object that ``--json`` prints."""
    folder = str(Path(__file__).resolve().parents[1] / "runtime" / "cmake")
    if not args.json:
        print(folder)
    return {"folder": folder}
