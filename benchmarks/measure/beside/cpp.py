"""Rows that the C++ runtime runs: the same builds, timed by its ``xfer-bench`` in the same rounds.

``xfer-bench --worker`` takes the place of ``worker.py``: same assignment, same requests, same replies.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.measure.protocol import Candidate
from export.targets import Variant
from xfer.errors import UnavailableError

PROGRAM = "xfer-bench"


def candidates(own: Sequence[Candidate], build: Path) -> list[Candidate]:
    """Return the same variants once more, run in C++; eager has no C++ side.

    Args:
        own: What Python runs.
        build: Folder in which CMake built the C++ runtime.

    Raises:
        UnavailableError: If it has no xfer-bench.
    """
    program = build.resolve() / PROGRAM
    if not os.access(program, os.X_OK):
        raise UnavailableError(
            f'{build} has no {PROGRAM}. Build the C++ runtime: cmake -S "$(xfer cmake-dir)/.." -B {build} &&'
            f" cmake --build {build}"
        )
    return [
        replace(
            candidate,
            name=row_name(candidate.name),
            worker=(str(program), *_library(Variant.parse(candidate.variant)), "--worker"),
        )
        for candidate in own
        if Variant.parse(candidate.variant).target != "eager"
    ]


def row_name(variant: str) -> str:
    """Name of the row.

    Example:
        >>> row_name("onnx-int8")
        'onnx-int8 (C++)'
    """
    return f"{variant} (C++)"


def _library(variant: Variant) -> tuple[str, ...]:
    """Let both sides run the same ONNX Runtime: Python's, unless the user names one."""
    package = importlib.util.find_spec("onnxruntime")
    if variant.target != "onnx" or variant.place == "openvino" or "XFER_ONNXRUNTIME_LIBRARY" in os.environ:
        return ()
    if package is None or package.origin is None:
        return ()
    found = sorted(Path(package.origin).parent.glob("capi/libonnxruntime.so.*"))
    return ("--library", str(found[0])) if found else ()
