"""Files that are whole or not there, also after a power cut; and typed JSON."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from xfer.errors import XferError

T = TypeVar("T")


@contextmanager
def atomically(path: Path) -> Iterator[IO[bytes]]:
    """Give a file under a temporary name in its folder, and rename it into place when it has reached the disk.

    A link of that name is replaced, not written through.

    Raises:
        OSError: If the folder cannot be written to; nothing is left behind.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, has reached the disk.

    Raises:
        OSError: If it could not be written there.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot do that to folders
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Do that to all files below a folder, then to the folders from the innermost on, then to itself."""
    below = sorted(folder.rglob("*"), reverse=True)  # what is in a folder comes before it
    for path in [path for path in below if path.is_file()]:
        sync(path)
    for path in [path for path in below if path.is_dir()]:
        sync(path)
    sync(folder)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it into place.

    Raises:
        OSError: If the folder cannot be written to; nothing is left behind.
    """
    with atomically(path) as file:
        file.write(data)


@contextmanager
def writable(path: Path, kind: type[XferError], advice: str = "") -> Iterator[None]:
    """Say in one line that a file or folder cannot be written to, if it turns out so meanwhile.

    Args:
        path: It.
        kind: Class of the error.
        advice: What to do about that, as a sentence of its own.

    Raises:
        XferError: Of that class, if so.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise kind(f"{path} cannot be written to: {why}.{f' {advice}' if advice else ''}") from error


def to_json(value: Any) -> bytes:
    """Return a dataclass or plain values as indented JSON that ends in a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def from_json(data: bytes, kind: type[T]) -> T:
    """Read JSON into a dataclass.

    Raises:
        msgspec.DecodeError: On bad JSON, with the path of the field that does not fit, or a value that means nothing.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except XferError as error:  # of a class that checks what it is given
        raise msgspec.ValidationError(str(error)) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
