"""The last values of observations that a policy sees several of at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xfer.runner.session import Arrays
from xfer.spec import TensorSpec


class FrameHistory:
    """Keeps, row by row, the last values of those observations that have ``frames``.

    Args:
        observations: The spec's.
        batch: Number of rows.
    """

    def __init__(self, observations: Sequence[TensorSpec], batch: int) -> None:
        self._kept = {o.name: o.stacked.zeros(batch) for o in observations if o.frames > 1}
        self._empty = np.ones(batch, bool)

    def __bool__(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self._kept)

    def reset(self, mask: np.ndarray, starts: Arrays) -> None:
        """Forget some rows.

        Args:
            mask: Which, bool [B].
            starts: The values before the next one, [number of those rows, frames - 1, *shape] by name; without them
                they are copies of it.
        """
        self._empty = self._empty | mask
        for name in self._kept.keys() & starts.keys():
            kept = self._kept[name].copy()  # a session may still own the present one
            kept[mask, 1:] = starts[name]
            self._kept[name] = kept
            self._empty = self._empty & ~mask

    def with_newest(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the network takes: values [B, *shape] as they are, or the last ones [B, frames, *shape].

        Nothing is kept yet: see ``keep``.
        """
        fed = dict(observations)
        for name, kept in self._kept.items():
            newest = observations[name]
            fed[name] = np.concatenate([kept[:, 1:], newest[:, None]], axis=1)
            fed[name][self._empty] = newest[self._empty, None]
        return fed

    def keep(self, fed: Arrays) -> None:
        """Keep what ``with_newest`` returned."""
        self._kept = {name: fed[name] for name in self._kept}
        self._empty = np.zeros_like(self._empty)
