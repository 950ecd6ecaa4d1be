"""Environments that are seen: their rendered picture and what other sensors would give, or their own observations."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from xfer.spec import TensorSpec


class Rendered(gymnasium.ObservationWrapper[dict[str, np.ndarray], Any, Any]):
    """Observations are what ``observe`` sees of the present state instead of the state itself.

    The wrapper does nothing but look: stepping the wrapped ``env`` directly advances the same simulation without the
    cost of drawing.

    Args:
        env: The environment, with ``render_mode="rgb_array"``.
        observations: Specs of what it observes, the image first.
        observe: Returns the arrays, one for each spec; by default the rendered picture.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        observations: Sequence[TensorSpec],
        observe: Callable[[gymnasium.Env[Any, Any]], Sequence[np.ndarray]] | None = None,
    ) -> None:
        super().__init__(env)
        self._specs, self._observe = observations, observe
        space: Any = observation_space(observations)
        self.observation_space = space

    def observation(self, observation: Any) -> dict[str, np.ndarray]:
        """Look at the present state; ``observation`` (the state) is not used."""
        arrays = [picture(self.env)] if self._observe is None else self._observe(self.env)
        return {
            spec.name: np.ascontiguousarray(array, spec.dtype) for spec, array in zip(self._specs, arrays, strict=True)
        }


class Named(gymnasium.ObservationWrapper[dict[str, np.ndarray], Any, Any]):
    """Observations are the environment's own, as a dict of arrays of the specs' types.

    Args:
        env: The environment.
        observations: Specs of what it gives.
        only: Name of its observation, where that is an array and no dict.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], observations: Sequence[TensorSpec], only: str) -> None:
        super().__init__(env)
        self._specs, self._only = observations, only
        space: Any = observation_space(observations)
        self.observation_space = space

    def observation(self, observation: Any) -> dict[str, np.ndarray]:
        """Return copies: the environment may write into its arrays again."""
        given = observation if isinstance(observation, dict) else {self._only: observation}
        return {spec.name: np.array(given[spec.name], spec.dtype, order="C") for spec in self._specs}


def picture(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """Return the rendered picture, uint8 [H, W, 3]."""
    frame: Any = env.render()
    return np.asarray(frame, np.uint8)


def observation_space(observations: Sequence[TensorSpec]) -> gymnasium.spaces.Dict:
    """Return the space of a dict of arrays with these specs."""
    spaces: dict[str, gymnasium.Space[Any]] = {}
    for spec in observations:
        low, high = spec.value_range or (-np.inf, np.inf)
        spaces[spec.name] = gymnasium.spaces.Box(low, high, spec.shape, np.dtype(spec.dtype).type)
    return gymnasium.spaces.Dict(spaces)


def without_screen() -> None:
    """Let pygame draw where there is no screen: SDL looks for one all the same, and complains."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
