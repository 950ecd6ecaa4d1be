"""Arrays of rows that need not be in memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

PIECE = 8_000_000
"""Bytes that are read, written or kept at once, about; of rows that are larger, one."""


class Rows(Protocol):
    """An array [T, ...] of which rows are read when they are asked for. Every ``np.ndarray`` is one too."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Return a row, or several, in memory: by a number, a slice or an array of numbers."""


class ChosenRows:
    """Some rows of others.

    Args:
        rows: The others.
        index: Which, int [T].
    """

    def __init__(self, rows: Rows, index: np.ndarray) -> None:
        self._rows, self._index = rows, index
        self.dtype, self.shape = rows.dtype, (len(index), *rows.shape[1:])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: Any) -> Any:
        return self._rows[self._index[rows]]


class StoredRows:
    """Rows that stay where they are stored, and are read some at a time.

    Args:
        name: What they are called among those that share ``held``.
        dtype: The type of their elements.
        shape: [T, ...].
        per_piece: How many are read at once.
        read: Reads a piece, given its number and its shape.
        held: What was read last.
    """

    def __init__(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        per_piece: int,
        read: Callable[[int, tuple[int, ...]], np.ndarray],
        held: Held,
    ) -> None:
        self.dtype, self.shape = dtype, shape
        self._name, self._per_piece, self._read, self._held = name, per_piece, read, held

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, int | np.integer):
            piece, row = divmod(range(len(self))[int(rows)], self._per_piece)
            return self._piece(piece)[row].copy()  # not a view, which would keep the piece for the sake of one row
        index = np.arange(len(self))[rows]
        found = np.empty((*index.shape, *self.shape[1:]), self.dtype)
        for piece in np.unique(index // self._per_piece):
            here = index // self._per_piece == piece
            found[here] = self._piece(int(piece))[index[here] - piece * self._per_piece]
        return found

    def _piece(self, piece: int) -> np.ndarray:
        rows = min(self._per_piece, len(self) - piece * self._per_piece)
        return self._held.get((self._name, piece), lambda: self._read(piece, (rows, *self.shape[1:])))


class Held:
    """The pieces that were asked for last, as many as fit; one at least.

    Args:
        most: Bytes.
    """

    def __init__(self, most: int) -> None:
        self.most, self._bytes = most, 0
        self._pieces: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def get(self, key: tuple[str, int], read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a piece; ``read`` reads it, if it is not there."""
        if key not in self._pieces:
            self._pieces[key] = read()
            self._bytes += self._pieces[key].nbytes
            while self._bytes > self.most and len(self._pieces) > 1:
                self._bytes -= self._pieces.popitem(last=False)[1].nbytes
        self._pieces.move_to_end(key)
        return self._pieces[key]


def pieces(rows: Rows) -> Iterator[np.ndarray]:
    """Yield all rows in C order, some at a time."""
    step = rows_in(PIECE, rows.dtype, rows.shape)
    for start in range(0, len(rows), step):
        yield np.ascontiguousarray(rows[start : start + step])


def rows_in(size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Return how many rows take so many bytes; at least one."""
    return max(1, size // max(1, math.prod(shape[1:]) * dtype.itemsize))
