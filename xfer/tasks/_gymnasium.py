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
    """Return the contract of a discrete or a continuous action of the task called ``name``.

    A Box without any bound gives an action without bounds.

    Raises:
        UsageError: If it is neither, or has bounds that do not bound.
    """
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Discrete) and space.start == 0:
        return ActionSpec("discrete", tuple(str(index) for index in range(int(space.n))))
    if isinstance(space, Box) and len(space.shape) == 1 and space.dtype == np.float32:
        elements = tuple(f"action{i}" for i in range(space.shape[0]))
        if not (space.bounded_below | space.bounded_above).any():
            return ActionSpec("continuous", elements)
        try:
            return ActionSpec("continuous", elements, "", tuple(space.low.tolist()), tuple(space.high.tolist()))
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
    raise UsageError(f"{name} takes {space}: a policy gives Discrete or float32 Box [A] actions.")


def image(height: int, width: int) -> ImageConfig:
    """Return the whole picture in gray, shrunk to about 84 pixels; three frames show what moves."""
    shrink = max(1, round(min(height, width) / INPUT_SIDE))
    return ImageConfig((0, height - height % shrink, 0, width - width % shrink), shrink)
