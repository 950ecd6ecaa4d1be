"""ONNX Runtime's Python package, imported so that it runs the policy and does nothing else."""

from __future__ import annotations

import os
from typing import Any


def onnxruntime() -> Any:
    """Return the module.

    The official builds (seen in 1.32) send usage to Microsoft from a thread of their own, and keep a database of it in
    the user's cache (Privacy.md in the wheel). A control loop has none of that, unless ``ORT_DISABLE_TELEMETRY=0``.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
