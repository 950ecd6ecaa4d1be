"""What a target provides, and what goes in and out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Step(NamedTuple):
    """What a session returns.

    Attributes:
        action: int64 [B] or float32 [B, A]; of a policy that plans ahead int64 [B, H] or float32 [B, H, A].
        scores: float32 [B, S], or [B, H, S].
        states: The next states by the names of the states.
    """

    action: np.ndarray
    scores: np.ndarray
    states: dict[str, np.ndarray]


class Action(NamedTuple):
    """What a runner returns: the action in the environment's units, and the scores it was chosen from."""

    action: np.ndarray
    scores: np.ndarray


class Session(Protocol):
    """A loaded policy without memory."""

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the network once.

        Args:
            observations: One array [B, ...] for each of the spec's observations, [B, frames, ...] where it has several.
            states: One float32 array [B, ...] for each of the spec's states.

        Returns:
            Arrays that the session will not write to again.
        """


def in_order(array: np.ndarray) -> np.ndarray:
    """Return an array for a library that reads memory where it lies: in C order, aligned and writable.

    It is the array itself, or a view, where that is so, else a copy. A session holds it until the library is done.
    """
    if not array.flags.carray:
        return array.copy()
    return array.reshape(-1).reshape(array.shape)  # along an axis of one element strides may be anything, also negative
