"""Environments that are seen: their rendered picture and what other sensors would give, or their own observations.

What they give is checked here, once: a ``TaskError`` says what it is and what it should be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np

from xfer.errors import TaskError
from xfer.spec import TensorSpec

T = TypeVar("T")


class Rendered(gymnasium.ObservationWrapper[dict[str, np.ndarray], Any, Any]):
    """Observations are what ``observe`` sees of the present state instead of the state itself.

    The wrapper does nothing but look: stepping the wrapped ``env`` directly advances the same simulation without the
    cost of drawing.

    Args:
        env: The environment, with ``render_mode="rgb_array"``.
        observations: Specs of what it observes; the image first, where ``observe`` is left out.
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
        """Look at the present state; ``observation`` (the state) is not used.

        Raises:
            TaskError: If something else is seen than the specs say.
        """
        name = "render" if self._observe is None else getattr(self._observe, "__name__", "observe")
        seen = [picture(self.env)] if self._observe is None else called(name, self._seen)
        if len(seen) != len(self._specs):
            raise TaskError(f"{name}() gives {len(seen)} arrays for {len(self._specs)} observations.")
        return {
            spec.name: np.ascontiguousarray(conform(array, spec, f"{name}() gives '{spec.name}' as"))
            for spec, array in zip(self._specs, seen, strict=True)
        }

    def _seen(self) -> list[np.ndarray]:
        assert self._observe is not None
        return list(self._observe(self.env))


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
        """Return copies: the environment may write into its arrays again.

        Raises:
            TaskError: If the environment gives something else than its space says.
        """
        given = observation if isinstance(observation, Mapping) else {self._only: observation}
        return {name: np.array(array, order="C") for name, array in observed(given, self._specs).items()}


def observed(given: Any, observations: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Return what the specs name of what an environment gives, as they say.

    Raises:
        TaskError: If it is no dict, or lacks one of them, or one is something else.
    """
    if not isinstance(given, Mapping):
        names = ", ".join(f"'{spec.name}'" for spec in observations)
        raise TaskError(f"the observation is {described(given)}, not a dict with {names}.")
    for spec in observations:
        if spec.name not in given:
            there = ", ".join(f"'{name}'" for name in given) or "nothing"
            raise TaskError(f"observation '{spec.name}' is missing; there is {there}.")
    return {spec.name: conform(given[spec.name], spec, f"observation '{spec.name}' is") for spec in observations}


def conform(value: Any, spec: TensorSpec, what: str) -> np.ndarray:
    """Return an array in a spec's dtype. Other numbers become float32; nothing else is cast.

    Args:
        value: What an environment gave; it is returned itself where it is right.
        spec: What it should be.
        what: Begins the message, as "observation 'joints' is".

    Raises:
        TaskError: If its shape is another one, or its dtype does not fit.
    """
    wanted, shape = np.dtype(spec.dtype), tuple(spec.shape)
    array = value if isinstance(value, np.ndarray) else as_array(value)
    if array is not None and array.shape == shape:
        if array.dtype == wanted:
            return array
        if array.dtype.kind in "biuf" if wanted.kind == "f" else np.can_cast(array.dtype, wanted):
            with np.errstate(over="ignore"):  # a double may be more than any float32
                return array.astype(wanted)
    raise TaskError(f"{what} {described(value)}; it must be {spec.dtype} {list(shape)}.")


def picture(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """Return the rendered picture, uint8 [H, W, 3].

    Raises:
        TaskError: If ``render()`` fails, or gives something else.
    """
    frame: Any = called("render", env.render)
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,) and frame.size:
        return frame
    raise TaskError(
        f"render() gives {described(frame)}; with render_mode='rgb_array' it must give one uint8 array [H, W, 3]: RGB,"
        " 0 to 255."
    )


def called(name: str, function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function of an environment or of its task.

    Raises:
        TaskError: If it raises anything, with its name.
    """
    try:
        return function(*args, **options)
    except TaskError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody's environment raises
        raise TaskError(f"{name}() raised {_said(error)}. --debug shows where.") from error


def attribute(env: Any, name: str) -> Any:
    """Return an attribute of an environment, or None if it has none of this name.

    Raises:
        TaskError: If it is a property that raises anything else.
    """
    try:
        return getattr(env, name, None)
    except (Exception, SystemExit) as error:  # whatever somebody's environment raises
        raise TaskError(f"{name} raised {_said(error)}. --debug shows where.") from error


def words_of(error: BaseException) -> str:
    """Return what an error says, on one line; nothing if it cannot say it."""
    try:
        return " ".join(str(error).split())
    except Exception:  # whatever somebody's class raises
        return ""


def _said(error: BaseException) -> str:
    text = words_of(error)
    return f"{type(error).__name__} ({text})" if text else type(error).__name__


def described(value: Any) -> str:
    """Say what an environment gave, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, str):
        return f"a string ({str(value)[:30]!r})"
    if value is None or isinstance(value, (bool, int, float, np.generic)):
        return str(value)[:30]
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, (list, tuple, dict)) else f"a {kind}"


def as_array(value: Any) -> np.ndarray | None:
    """Return what is no array as one, or None if it cannot be one."""
    try:
        return np.asarray(value)
    except Exception:  # whatever somebody's class raises
        return None


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
