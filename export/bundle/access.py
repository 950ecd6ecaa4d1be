"""Writing into a bundle: by one process at a time, and through no link; and copies that can be written to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from xfer import files
from xfer.errors import BundleError

LOCK = ".lock"
LOCK_TIMEOUT_S = 600.0
"""How long a second writer waits for the first."""


def within(folder: Path, name: str) -> Path:
    """Return the path of what is called ``name`` below a folder, and is to be written to, replaced or deleted.

    Raises:
        BundleError: If it is a symbolic link, or one is on the way to it: what that leads to is somebody else's.
    """
    path = folder
    for part in PurePosixPath(name).parts:
        path /= part
        if path.is_symlink():
            raise BundleError(f"{path} is a symbolic link, which is not followed: put what it leads to in its place.")
    return path


def writable(folder: Path, advice: str = "") -> AbstractContextManager[None]:
    """Raise a BundleError where a folder cannot be written to; see ``xfer.files.writable``."""
    return files.writable(folder, BundleError, advice)


@contextmanager
def locked(folder: Path, advice: str = "") -> Iterator[None]:
    """Hold the lock of a folder.

    Args:
        folder: A bundle, or a folder of records.
        advice: See ``writable``.

    Raises:
        BundleError: If another process holds it for ten minutes, it is a link, or the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    with ExitStack() as held:
        with writable(folder, advice):
            try:
                held.enter_context(FileLock(within(folder, LOCK), timeout=LOCK_TIMEOUT_S))
            except Timeout as error:
                raise BundleError(f"{folder} is being written to by another process.") from error
        yield


def copy_tree(source: Path, target: Path) -> None:
    """Copy all that is in a folder into another one. The copy can be written to, also where the original cannot."""
    shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    for path in (target, *target.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
