"""What the targets of one library share: finding it, its settings, its sessions."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def installed_versions(*distributions: str) -> dict[str, str]:
    """Return the versions of those distributions that are installed here."""
    found = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
