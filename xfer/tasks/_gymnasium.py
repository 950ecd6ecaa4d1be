"""What ``gym:`` and ``env:`` share: how an environment is found, and the contract that is derived from it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from xfer import user_code
from xfer.errors import TaskError, UsageError
from xfer.spec import ActionSpec, ImageConfig

if TYPE_CHECKING:
    import gymnasium

INPUT_SIDE = 84
"""The shorter side of a picture is shrunk to about this many pixels."""
USUAL_HZ = 30.0
"""The frame rate where an environment names none (Gymnasium's own default for videos)."""


def make(name: str, env_id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """Return the environment that the task called ``name`` is of; the module that registers it may lie in this folder.

    Raises:
        UsageError: If there is none, or it cannot be made with these options.
    """
    import gymnasium

    from xfer.wrappers import without_screen, words_of

    without_screen()
    user_code.look_here()
    try:
        # Without Gymnasium's own checks, which warn: xfer.tasks._environment makes them, and refuses.
        return gymnasium.make(env_id, disable_env_checker=True, **options)
    except (Exception, SystemExit) as error:  # whatever a user's module or constructor raises
        known = isinstance(error, (gymnasium.error.Error, ImportError, ValueError, TypeError))
        kind = "" if known else f"{type(error).__name__}: "
        raise UsageError(f"{name}: {kind}{words_of(error)}".rstrip(": ")) from error


@contextlib.contextmanager
def looked_at(name: str, env: gymnasium.Env[Any, Any]) -> Iterator[None]:
    """Close an environment when its contract is known; a fault of its is the fault of the task called ``name``."""
    try:
        yield
    except TaskError as error:
        raise TaskError(f"{name}: {error}") from (error.__cause__ or error)
    finally:
        with contextlib.suppress(Exception):
            env.close()


def frame_rate(metadata: Any) -> float:
    """Return the rate at which an environment is drawn, in Hz: that of its actions.

    Raises:
        TaskError: If it is no rate.
    """
    from xfer.wrappers import described

    rate: Any = metadata.get("render_fps", USUAL_HZ) if isinstance(metadata, Mapping) else metadata
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < rate <= sys.float_info.max:  # type: ignore[operator]
        raise TaskError(
            f'metadata["render_fps"] is {described(rate)}; it must be the rate of its actions in Hz, a number above 0.'
        )
    return float(rate)


def action_spec(name: str, space: gymnasium.Space[Any] | None) -> ActionSpec:
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
