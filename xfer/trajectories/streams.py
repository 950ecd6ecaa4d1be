"""Reading a file from where one is, gzipped or not. No more is unpacked than is asked for.

A gzip file cannot be read from the middle. But a stream can be copied where it is, zlib's state included, and the copy
goes on from there.
"""

from __future__ import annotations

import os
import weakref
import zlib
from pathlib import Path
from typing import Protocol

AT_ONCE = 1 << 20
"""Bytes of a plain file that are read at once."""
ZIPPED_AT_ONCE = 1 << 16
"""The same of a gzip file, some of which may be read again."""
GZIP = 16 + zlib.MAX_WBITS
"""What zlib calls gzip's header and checksum."""


class Stream(Protocol):
    """Reads on from where it is.

    Raises:
        EOFError: Where the file ends too early.
        zlib.error: Where it is no gzip, or damaged.
    """

    def read(self, size: int) -> bytearray:
        """Return the next bytes."""

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""

    def finish(self) -> None:
        """See that nothing follows.

        Raises:
            ValueError: If something does.
        """

    def copy(self) -> Stream:
        """Return another that is at the same place."""


class OpenFile:
    """An open file. What is read stays the same if another takes its name.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
        self.size = os.fstat(self._handle).st_size

    def read(self, at: int, size: int) -> bytes:
        """Return the bytes at a place, or those that there are."""
        return os.pread(self._handle, size, at)


class Plain:
    """A file as it is.

    Args:
        file: The file.
        at: Where to begin.
    """

    def __init__(self, file: OpenFile, at: int = 0) -> None:
        self._file, self._at = file, at

    def read(self, size: int) -> bytearray:
        """Return the next bytes."""
        data = bytearray()
        while len(data) < size:
            part = self._file.read(self._at, min(AT_ONCE, size - len(data)))
            if not part:
                raise EOFError("it ends too early")
            data += part
            self._at += len(part)
        return data

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        self._at += size

    def finish(self) -> None:
        """See that nothing follows."""
        if self._at < self._file.size:
            raise ValueError("it holds more than its header says")

    def copy(self) -> Plain:
        """Return another that is at the same place."""
        return Plain(self._file, self._at)


class Unzipped:
    """What a gzip file holds; of several members, one after the other.

    Args:
        file: The file.
        at: Where to go on.
        inflater: From which state.
    """

    def __init__(self, file: OpenFile, at: int = 0, inflater: zlib._Decompress | None = None) -> None:
        self._file, self._at = file, at
        self._inflater = zlib.decompressobj(GZIP) if inflater is None else inflater

    def read(self, size: int) -> bytearray:
        """Return the next bytes."""
        data = bytearray()
        while len(data) < size:
            data += self._some(min(size - len(data), AT_ONCE))
        return data

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        while size:
            size -= len(self._some(min(size, AT_ONCE)))

    def finish(self) -> None:
        """See that nothing follows."""
        while not (self._inflater.eof and self._at >= self._file.size):
            if self._some(1):
                raise ValueError("it holds more than its header says")

    def copy(self) -> Unzipped:
        """Return another that is at the same place."""
        return Unzipped(self._file, self._at, self._inflater.copy())

    def _some(self, most: int) -> bytes:
        """Return some of the next bytes, perhaps none."""
        if self._inflater.eof:
            self._inflater = zlib.decompressobj(GZIP)
        data = self._file.read(self._at, ZIPPED_AT_ONCE)
        found = self._inflater.decompress(data, most)
        left = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        self._at += len(data) - len(left)
        if not found and not data:
            raise EOFError("it ends too early")
        return found
