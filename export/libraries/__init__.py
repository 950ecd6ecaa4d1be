"""What the targets of one library share: finding it, its settings, its sessions."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def user_cache() -> Path:
    """Return the folder of what outlives a bundle, and may be deleted at any time; it need not exist.

    Raises:
        RuntimeError: If the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xfer"


def installed_versions(*distributions: str) -> dict[str, str]:
    """Return the versions of those distributions that are installed here."""
    found = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
