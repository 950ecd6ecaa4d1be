"""Files that are whole or not there, and typed JSON."""

from __future__ import annotations

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
    """Give a file under a temporary name in its folder, and rename it into place when it is written.

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


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it into place.

    Raises:
        OSError: If the folder cannot be written to; nothing is left behind.
    """
    with atomically(path) as file:
        file.write(data)


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
