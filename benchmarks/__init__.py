"""The proof: how fast each variant of a bundle is here, against its reference, and which one to take.

    from benchmarks import Limits, conclude, decide, write
    from benchmarks.bench import bench

Importing this package costs nothing: what it offers is imported when it is first used. Plots and statistics need the
extra ``bench``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.report.conclusion import conclude, decide
    from benchmarks.report.data import Report
    from benchmarks.report.decision import Limits
    from benchmarks.report.write import write

__all__ = ["Limits", "Report", "conclude", "decide", "write"]

_WHERE = {
    "Limits": "benchmarks.report.decision",
    "Report": "benchmarks.report.data",
    "conclude": "benchmarks.report.conclusion",
    "decide": "benchmarks.report.conclusion",
    "write": "benchmarks.report.write",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
