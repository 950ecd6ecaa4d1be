"""Arrays as libraries want them that read memory where it lies."""

from __future__ import annotations

import numpy as np


def in_order(array: np.ndarray) -> np.ndarray:
    """Return the array in C order, aligned and writable: itself (or a view) where it is so, else a copy.

    Who hands the memory to a library must hold what this returns until the library is done with it.
    """
    if not array.flags.carray:
        return array.copy()
    return array.reshape(-1).reshape(array.shape)  # along an axis of one element strides may be anything, also negative
