"""Writing gzipped safetensors files, a few rows at a time."""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from xfer.errors import RunError, UsageError
from xfer.files import atomically, writable
from xfer.trajectories.reading import DTYPES, Tensor
from xfer.trajectories.rows import PIECE, Rows, pieces
from xfer.trajectories.streams import GZIP

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Rows]) -> None:
    """Write tensors; the same ones give the same bytes.

    Raises:
        OSError: If the folder cannot be written to; nothing is left behind.
    """
    kinds = _ordered({name: Tensor(rows.dtype, rows.shape) for name, rows in tensors.items()})
    with atomically(path) as file:
        stream = _Gzip(file)
        stream.write(_header(kinds))
        for name in kinds:
            for piece in pieces(tensors[name]):
                stream.write(piece.data)
        stream.finish()


def write_steps(path: Path, steps: Iterable[tuple[bool, Mapping[str, np.ndarray]]], prefix: str) -> None:
    """Write steps as they come, of which one at a time is in memory.

    Args:
        path: The file.
        steps: Does an episode begin here, which is written as ``resets``; and arrays by name.
        prefix: What their names begin with in the file.

    Raises:
        RunError: If the file cannot be written; nothing is left behind.
    """
    resets: list[bool] = []
    rows: dict[str, Tensor] = {}
    with ExitStack() as stack:
        # A tensor lies in one piece, so each is written to a file of its own first.
        streams: dict[str, _Gzip] = {}
        for begins, arrays in steps:
            resets.append(begins)
            with writable(path, RunError):
                for key, array in arrays.items():
                    name = prefix + key
                    if name not in rows:
                        rows[name] = Tensor(array.dtype, array.shape)
                        streams[name] = _Gzip(tempfile.TemporaryFile(dir=path.parent))  # noqa: SIM115 - the next line does
                        stack.callback(streams[name].close)
                    streams[name].write(np.ascontiguousarray(array).data)
        began = np.array(resets)
        kinds = {name: Tensor(row.dtype, (len(began), *row.shape)) for name, row in rows.items()}
        kinds = _ordered({**kinds, "resets": Tensor(began.dtype, began.shape)})
        with writable(path, RunError), atomically(path) as file:
            # Gzip files behind one another are one.
            _append(file, _header(kinds))
            for name in kinds:
                if name == "resets":
                    _append(file, began.data)
                else:
                    part = streams[name].finish()
                    part.seek(0)
                    shutil.copyfileobj(part, file, PIECE)


def _append(file: IO[bytes], data: bytes | memoryview) -> None:
    stream = _Gzip(file)
    stream.write(data)
    stream.finish()


class _Gzip:
    """A gzip file, without a time stamp."""

    def __init__(self, file: IO[bytes]) -> None:
        # Level 1: rendered frames are mostly flat, and more effort saves nothing worth the time.
        self._file, self._deflater = file, zlib.compressobj(1, zlib.DEFLATED, GZIP)

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(self._deflater.compress(data))

    def finish(self) -> IO[bytes]:
        self._file.write(self._deflater.flush())
        return self._file

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, of which was told already
            self._file.close()


def _ordered(kinds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in the order of the file, which is that of safetensors: so each is aligned."""
    return dict(sorted(kinds.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def _header(kinds: Mapping[str, Tensor]) -> bytes:
    """Return what a file of these tensors begins with."""
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in kinds.items():
        if tensor.dtype not in NAMES:
            raise UsageError(f"{name} is of type {tensor.dtype}, which safetensors has not.")
        offsets = [end, end := end + tensor.size]
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
