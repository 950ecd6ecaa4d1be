"""The last values of observations that a policy sees several of at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xfer.runner.session import Arrays
from xfer.spec import TensorSpec


class FrameHistory:
    """Keeps, row by row, the values before the newest of those observations that have ``frames``.

    Args:
        observations: The spec's.
        batch: Number of rows.
    """

    def __init__(self, observations: Sequence[TensorSpec], batch: int) -> None:
        framed = [o for o in observations if o.frames > 1]
        self._kept = {o.name: [o.zeros(batch) for _ in range(o.frames - 1)] for o in framed}  # the oldest first
        self._known = np.zeros(batch, int)  # how many of them are of the row's own episode
        self._most = max((len(kept) for kept in self._kept.values()), default=0)

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
        self._known[mask] = 0
        for name in self._kept.keys() & starts.keys():
            for age, kept in enumerate(self._kept[name]):
                kept[mask] = starts[name][:, age]
            self._known[mask] = self._most

    def stacked(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the network takes: values [B, *shape] as they are, or the last ones [B, frames, *shape].

        The newest are not kept yet: see ``push``.
        """
        fed = dict(observations)
        for name, kept in self._kept.items():
            fed[name] = np.stack([*kept, observations[name]], axis=1)
            for row in np.flatnonzero(self._known < len(kept)):
                first = len(kept) - self._known[row]
                fed[name][row, :first] = fed[name][row, first]
        return fed

    def push(self, observations: Arrays) -> None:
        """Keep the newest values, [B, *shape] by name."""
        for name, kept in self._kept.items():
            oldest = kept.pop(0)
            oldest[...] = observations[name]  # a copy: an environment may draw its next frame there
            kept.append(oldest)
        self._known = np.minimum(self._known + 1, self._most)
