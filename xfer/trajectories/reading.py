"""Reading safetensors files, gzipped or not, that need not fit into memory.

A file is not trusted. Its header is read first and says how much there is to come: what cannot be true is refused
before anything is unpacked, and no more than that is ever unpacked.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from xfer.errors import RunError
from xfer.trajectories.rows import PIECE, Held, Rows, StoredRows, rows_in
from xfer.trajectories.streams import OpenFile, Plain, Stream, Unzipped

MAGIC = b"\x1f\x8b"
MOST_HEADER = 1_000_000
"""Largest header, in bytes."""
MOST_RATIO = 1032
"""So many bytes, at most, come of one that was deflated (https://zlib.net/zlib_tech.html)."""
MOST_PLACES = 1000
"""Places in a file from which reading can go on, about: each takes 40 kB."""
READERS = 32
"""So many pieces fit into memory: rows of several episodes, and of several tensors, are read in turn."""
ROWS_AT_ONCE = 8
"""So many rows must fit into memory."""

DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": "?",
        "U8": "u1",
        "I8": "i1",
        "U16": "<u2",
        "I16": "<i2",
        "F16": "<f2",
        "U32": "<u4",
        "I32": "<i4",
        "F32": "<f4",
        "U64": "<u8",
        "I64": "<i8",
        "F64": "<f8",
    }.items()
}
"""What safetensors calls the types that NumPy has."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file, as its header says."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class TensorFile:
    """A safetensors file whose header has been read.

    Args:
        path: The file.
        advice: What to do if it is damaged.

    Attributes:
        tensors: What it holds, by name, in the order in which it lies there.
        size: Bytes of all tensors, unpacked.

    Raises:
        RunError: If it is missing, or is no such file.
    """

    def __init__(self, path: Path, advice: str = "Make it again.") -> None:
        self._blaming = partial(_blaming, path, advice)
        with self._blaming():
            if path.exists() and not path.is_file():
                raise ValueError("it is no file")  # a pipe would keep us waiting
            file = OpenFile(path)
            zipped = file.read(0, len(MAGIC)) == MAGIC
            self._stream: Stream = Unzipped(file) if zipped else Plain(file)
            length = int.from_bytes(self._stream.read(8), "little")
            if length > MOST_HEADER:
                raise ValueError("it is no safetensors file")
            self.tensors = _parsed(self._stream.read(length))
            self.size = sum(tensor.size for tensor in self.tensors.values())
            if self.size > (MOST_RATIO * file.size if zipped else file.size - 8 - length):
                raise ValueError(f"its header promises {self.size:,} bytes, which are not in it")

    def read(self, memory: int | None = None, by_rows: str = "") -> dict[str, Rows]:
        """Read all tensors, once.

        Args:
            memory: Bytes of them that may be in memory at once. Where there are more, rows of large tensors are read
                when they are asked for. By default all are read now.
            by_rows: What the names of tensors that may stay in the file begin with.

        Returns:
            Arrays by name.

        Raises:
            RunError: If the file is damaged, or does not fit into memory even so.
        """
        found: dict[str, Rows] = {}
        with self._blaming():
            stay = frozenset[str]() if memory is None or self.size <= memory else self._staying(memory, by_rows)
            held = Held(memory or 0)
            for name, tensor in self.tensors.items():
                if name in stay:
                    found[name] = self._left(name, tensor, held)
                else:
                    found[name] = _array(self._stream, tensor.dtype, tensor.shape)
            self._stream.finish()
        return found

    def _staying(self, memory: int, by_rows: str) -> frozenset[str]:
        """Return which tensors are left in the file."""
        large = {name: each for name, each in self.tensors.items() if name.startswith(by_rows) and each.size > PIECE}
        row = sum(math.prod(each.shape[1:]) * each.dtype.itemsize for each in large.values())
        least = self.size - sum(each.size for each in large.values()) + ROWS_AT_ONCE * row
        if least > memory:
            raise ValueError(f"{least:,} bytes of it must be in memory, and {memory:,} may be")
        return frozenset(large)

    def _left(self, name: str, tensor: Tensor, held: Held) -> StoredRows:
        """Pass over a tensor, and note where its pieces begin."""
        size = max(min(PIECE, held.most // READERS), self.size // MOST_PLACES)
        per_piece = rows_in(size, tensor.dtype, tensor.shape)
        places = []
        for first in range(0, tensor.shape[0], per_piece):
            places.append(self._stream.copy())
            rows = min(per_piece, tensor.shape[0] - first)
            self._stream.skip(Tensor(tensor.dtype, (rows, *tensor.shape[1:])).size)

        def read(piece: int, shape: tuple[int, ...]) -> np.ndarray:
            with self._blaming():
                return _array(places[piece].copy(), tensor.dtype, shape)

        return StoredRows(name, tensor.dtype, tensor.shape, per_piece, read, held)


def _array(stream: Stream, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    data = stream.read(Tensor(dtype, shape).size)
    return np.frombuffer(data, dtype).reshape(shape) if data else np.empty(shape, dtype)


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _parsed(header: bytes | bytearray) -> dict[str, Tensor]:
    """Return the tensors that a header names, in the order in which they lie in the file.

    Raises:
        ValueError: If they do not lie one behind the other, or are of a type that NumPy has not.
    """
    entries = {
        name: msgspec.json.decode(entry, type=_Entry)
        for name, entry in msgspec.json.decode(header, type=dict[str, msgspec.Raw]).items()
        if name != "__metadata__"
    }
    found, end = dict[str, Tensor](), 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in DTYPES:
            raise ValueError(f"'{name}' is of type {entry.dtype}")
        tensor = Tensor(DTYPES[entry.dtype], entry.shape)
        if min(tensor.shape, default=0) < 0 or entry.data_offsets != (end, end + tensor.size):
            raise ValueError(f"'{name}' is not where its header says")
        found[name], end = tensor, end + tensor.size
    return found


@contextmanager
def _blaming(path: Path, advice: str) -> Iterator[None]:
    """Say in one line that a file is damaged, by whatever it shows."""
    try:
        yield
    except (OSError, EOFError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise RunError(f"{path} is missing or damaged ({error or type(error).__name__}). {advice}") from error
    except (zlib.error, msgspec.MsgspecError) as error:
        raise RunError(f"{path} is missing or damaged ({error}). {advice}") from error
