"""Session and Runner: the one interface through which any form of a policy acts. It needs no torch.

A ``Session`` is what a target provides: stateless, states in and states out. A ``Runner`` wraps a session and
keeps the states between calls. It is written once, here, so all targets treat episodes alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from xfer.errors import ObservationError, ScoresError
from xfer.spec import FLOAT_MAX, ActionSpec, PolicySpec

Arrays = Mapping[str, np.ndarray]

SLACK = 1e-5
"""How far a continuous action may be out of its bounds by rounding, as a share of its range; one float32 at least."""
FAULT = "the fault is in the policy's weights, or in what this variant computes with them."


class Step(NamedTuple):
    """What a session returns: action, scores [B, A], and the next states by the names of the states."""

    action: np.ndarray
    scores: np.ndarray
    states: dict[str, np.ndarray]


class Session(Protocol):
    """A loaded policy without memory."""

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the network once.

        Args:
            observations: One array [B, ...] for each of the spec's observations.
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


class Action(NamedTuple):
    """What a runner returns: the action in the environment's units, and the scores it was chosen from."""

    action: np.ndarray
    scores: np.ndarray


class Runner:
    """Acts step by step, for one environment or a batch of them, and remembers the states in between.

    Args:
        session: Any target's session.
        spec: The policy's contract.
        batch: Number of environments; each row of the batch is one.

    Example (a bundle is opened in ``export``)::

        runner.reset()
        action, scores = runner.act({"frame": frame})
    """

    def __init__(self, session: Session, spec: PolicySpec, batch: int = 1) -> None:
        self.session, self.spec, self.batch = session, spec, batch
        self._inputs = [(o.name, (batch, *o.shape), np.dtype(o.dtype)) for o in spec.observations]
        self._states = {state.name: state.zeros(batch) for state in spec.states}
        action = spec.action.tensor
        self._action = (batch, *action.shape), np.dtype(action.dtype)
        self._low, self._high = _bounds(spec.action)

    def reset(self, mask: np.ndarray | None = None, states: Arrays | None = None) -> None:
        """Start a new episode in all rows, or in those where ``mask`` (bool [B]) is true.

        Args:
            mask: Which rows.
            states: Where to go on from, float32 [number of those rows, ...] by name, instead of zeros.

        Raises:
            ObservationError: If the mask has another shape.
        """
        if mask is None:
            mask = np.ones(self.batch, bool)
        elif mask.shape != (self.batch,):
            raise ObservationError(f"The reset mask has shape {mask.shape}, expected ({self.batch},).")
        # A copy, since a session may still own the present arrays.
        self._states = {name: state.copy() for name, state in self._states.items()}
        for name, state in self._states.items():
            state[mask] = 0 if not states else states[name]

    def act(self, observations: Arrays) -> Action:
        """Choose an action.

        Args:
            observations: Arrays by name. With a batch of 1 the batch dimension may be left out, and then the
                action and scores come without it too.

        Returns:
            Arrays that belong to the caller.

        Raises:
            ObservationError: On a missing name, or a wrong shape or dtype; or if what it was given is not finite, and
                so is what the policy made of it.
            ScoresError: If the scores, the action or a next state are not finite, or the action is out of its bounds.
                In both cases the states stay as they were.
        """
        batched = {}
        single = False
        for name, shape, dtype in self._inputs:
            array = observations.get(name)
            if array is None:
                raise ObservationError(f"Observation '{name}' is missing; got {sorted(observations)}.")
            if array.shape == shape[1:] and self.batch == 1:
                single, array = True, array[None]
            if array.shape != shape or array.dtype != dtype:
                raise ObservationError(
                    f"Observation '{name}' is {array.dtype} {list(array.shape)}, expected {dtype} {list(shape)}."
                )
            batched[name] = in_order(array)  # once, and held until the session has returned
        step = self.session.step(batched, self._states)
        try:
            self._check(step)
        except ScoresError as error:
            _blame({f"Observation '{name}'": array for name, array in batched.items()}, error)
            _blame({f"State '{name}'": array for name, array in self._states.items()}, error)
            raise
        self._states = step.states
        return Action(step.action[0], step.scores[0]) if single else Action(step.action, step.scores)

    def _check(self, step: Step) -> None:
        """Refuse what must not reach a robot, or the next step.

        Raises:
            ScoresError: With what it is.
        """
        action, (shape, dtype) = step.action, self._action
        if action.shape != shape or action.dtype != dtype:
            raise ScoresError(f"The action is {action.dtype} {list(action.shape)}, expected {dtype} {list(shape)}.")
        if not np.isfinite(step.scores).all():
            raise ScoresError(self._not_finite(step.scores))
        inside = (action >= self._low) & (action <= self._high)  # false for NaN
        if not inside.all():
            row, *element = (int(i) for i in np.argwhere(~inside)[0])
            value = action[(row, *element)]
            if element and np.isfinite(value):
                name, i = self.spec.action.elements[element[0]], element[0]
                bounds = f"{self.spec.action.low[i]:g} to {self.spec.action.high[i]:g}"
                raise ScoresError(
                    f"The action's '{name}' is {value:g}, out of its bounds {bounds}. Clip it in the policy, or"
                    " leave the bounds out of its ActionSpec."
                )
            what = f"The action is {value}, not one of 0 to {self._high}" if not element else "The action is not finite"
            raise ScoresError(f"{what}: {FAULT}")
        for name, state in step.states.items():
            if not np.isfinite(state).all():
                raise ScoresError(f"The next state '{name}' is not finite: {FAULT}")

    def _not_finite(self, scores: np.ndarray) -> str:
        """Return which score is not finite, and what is at fault: a mask, or the network."""
        row, element = (int(i) for i in np.argwhere(~np.isfinite(scores))[0])
        where = f" in row {row}" if self.batch > 1 else ""
        said = f"The policy's scores are not finite: that of '{self.spec.action.elements[element]}' is "
        said += f"{scores[row, element]}{where}"
        if self.spec.action.kind == "discrete" and (np.isfinite(scores) | np.isneginf(scores)).all():
            return f"{said}. Is that a mask? Let it be a finite number: -1e8, or -6e4 where fp16 computes it."
        return f"{said}, of finite inputs. {FAULT[0].upper()}{FAULT[1:]}"


def _blame(inputs: Arrays, error: ScoresError) -> None:
    """Blame what was given, where it is not finite.

    Raises:
        ObservationError: With the first place.
    """
    for name, array in inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row, *place = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
            where = ", ".join([*([f"element {place}"] if place else []), *([f"row {row}"] if len(array) > 1 else [])])
            value = array[(row, *place)]
            raise ObservationError(f"{name} holds {value} ({where}), of which the policy makes no action.") from error


def _bounds(action: ActionSpec) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Return between which values an action lies, as rounding may leave them; without bounds, any finite number."""
    if action.kind == "discrete":
        return 0, len(action.elements) - 1
    if not action.low:
        return -FLOAT_MAX, FLOAT_MAX
    low, high = np.array(action.low), np.array(action.high)
    slack = SLACK * (high - low) + np.finfo(np.float32).eps * np.maximum(np.abs(low), np.abs(high))
    # What lies beyond the largest float32 would be infinite, and then infinite actions would be inside.
    edges = np.clip([low - slack, high + slack], -FLOAT_MAX, FLOAT_MAX).astype(np.float32)
    return edges[0], edges[1]
