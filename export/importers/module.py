"""Somebody's own ``nn.Module`` with a ``PolicySpec``: `xfer export module:function`."""

from __future__ import annotations

import sys

from export.importers._deployable import Deployable
from xfer import user_code
from xfer.errors import UsageError
from xfer.spec import PolicySpec

__all__ = ["Deployable", "load"]


def load(name: str) -> Deployable:
    """Return what the function called ``name`` gives.

    Raises:
        UsageError: If there is no such function, or it returns something else.
        UnavailableError: If it needs a library that is not installed.
        XferError: If it fails.
    """
    from torch import nn

    try:
        found = user_code.call(name, "Policy")
    except ModuleNotFoundError:
        found = None
    if found is None:
        module_name, _, function = name.partition(":")
        if hasattr(sys.modules.get(module_name), function):
            raise UsageError(f"{name} returns nothing. It must return an export.Deployable(module, spec).")
        raise UsageError(f"{name}: there is no such function, neither in this folder nor installed.")
    module, spec = getattr(found, "module", None), getattr(found, "spec", None)
    if not (isinstance(module, nn.Module) and isinstance(spec, PolicySpec)):
        raise UsageError(f"{name} returns a {type(found).__name__}. It must return an export.Deployable(module, spec).")
    return Deployable(module, spec)
