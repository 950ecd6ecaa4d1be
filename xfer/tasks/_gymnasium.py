"""What ``gym:`` and ``env:`` share: the contract of an environment's actions, and how its picture is shrunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xfer.errors import UsageError
from xfer.spec import ActionSpec, ImageConfig

if TYPE_CHECKING:
    import gymnasium

INPUT_SIDE = 84
"""The shorter side of a picture is shrunk to about this many pixels."""
USUAL_HZ = 30.0
"""The frame rate where an environment names none (Gymnasium's own default for videos)."""


def action_spec(name: str, space: gymnasium.Space[Any]) -> ActionSpec:
    """Return the contract of a discrete or a bounded continuous action of the task called ``name``.

    Raises:
        UsageError: If it is neither.
    """
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Discrete) and space.start == 0:
        return ActionSpec("discrete", tuple(str(index) for index in range(int(space.n))))
    if isinstance(space, Box) and len(space.shape) == 1 and space.is_bounded() and space.dtype == np.float32:
        low, high = space.low.tolist(), space.high.tolist()
        return ActionSpec("continuous", tuple(f"action{i}" for i in range(len(low))), "", tuple(low), tuple(high))
    raise UsageError(f"{name} takes {space}: a policy gives Discrete or bounded float32 Box [A] actions.")


def image(height: int, width: int) -> ImageConfig:
    """Return the whole picture in gray, shrunk to about 84 pixels; three frames show what moves."""
    shrink = max(1, round(min(height, width) / INPUT_SIDE))
    return ImageConfig((0, height - height % shrink, 0, width - width % shrink), shrink)
