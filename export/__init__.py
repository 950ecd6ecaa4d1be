"""The export stage: one deployable module becomes many runnable variants in one verified bundle.

    from export import Bundle

Importing this package brings in neither torch nor any runtime.
"""

from export.bundle.reader import Bundle
from export.importers.module import Deployable

__all__ = ["Bundle", "Deployable"]
