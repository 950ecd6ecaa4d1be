"""The export stage: one deployable module becomes many runnable variants in one verified bundle.

    from export import Bundle, Deployable, export, verify

Importing these brings in neither torch nor any runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.build import export
    from export.bundle.reader import Bundle
    from export.importers._deployable import Deployable
    from export.verification.verify import verify

__all__ = ["Bundle", "Deployable", "export", "verify"]

_HOME = {
    "Bundle": "export.bundle.reader",
    "Deployable": "export.importers._deployable",
    "export": "export.build",
    "verify": "export.verification.verify",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: modules of this package import one another through it."""
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
