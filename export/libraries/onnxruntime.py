"""ONNX Runtime's Python package, imported so that it runs the policy and does nothing else."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from xfer.errors import UnavailableError


def onnxruntime() -> Any:
    """Return the module.

    The official builds (seen in 1.32) send usage to Microsoft from a thread of their own, and keep a database of it in
    the user's cache (Privacy.md in the wheel). A control loop has none of that, unless ``ORT_DISABLE_TELEMETRY=0``.

    Raises:
        UnavailableError: If it is not installed.
    """
    if not importlib.util.find_spec("onnxruntime"):
        raise UnavailableError("ONNX Runtime is not installed: pip install 'xfer-policy[onnx]'")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
