"""What must not reach a robot, or the next step."""

from __future__ import annotations

import numpy as np

from xfer.errors import ObservationError, ScoresError
from xfer.runner.session import Arrays, Step
from xfer.spec import FLOAT_MAX, ActionSpec, PolicySpec

SLACK = 1e-5
"""How far a continuous action may be out of its bounds by rounding, as a share of its range; one float32 at least."""
FAULT = "the fault is in the policy's weights, or in what this variant computes with them."


class StepCheck:
    """Refuses what a session gave, if it must not be acted or handed on.

    Args:
        spec: The policy's contract.
        batch: Number of rows.
    """

    def __init__(self, spec: PolicySpec, batch: int) -> None:
        self._action, self._batch = spec.action, batch
        self._shapes = (batch, *spec.action.chunk.shape), (batch, *spec.chunk_scores.shape)
        self._dtype = np.dtype(spec.action.tensor.dtype)
        self._low, self._high = _bounds(spec.action)

    def __call__(self, step: Step, rows: np.ndarray | None = None) -> None:
        """Refuse it.

        Args:
            step: What a session gave.
            rows: In which rows of the batch it is used, bool [B]; what it gave in others does not matter. None: in all.

        Raises:
            ScoresError: With what it is.
        """
        action, scores, (shape, of_scores) = step.action, step.scores, self._shapes
        if action.shape != shape or action.dtype != self._dtype:
            raise ScoresError(
                f"The action is {action.dtype} {list(action.shape)}, expected {self._dtype} {list(shape)}."
            )
        if self._action.horizon > 1 and scores.shape != of_scores:
            raise ScoresError(f"The scores are {scores.dtype} {list(scores.shape)}, expected {list(of_scores)}.")
        if (bad := _places(~np.isfinite(scores), rows)) is not None:
            raise ScoresError(self._not_finite(scores, *bad))
        outside = ~((action >= self._low) & (action <= self._high))  # true for NaN
        if (bad := _places(outside, rows)) is not None:
            raise ScoresError(self._out_of_bounds(action[bad], bad))
        for name, state in step.states.items():
            if not np.isfinite(state).all():
                raise ScoresError(f"The next state '{name}' is not finite: {FAULT}")

    def _out_of_bounds(self, value: np.generic, place: tuple[int, ...]) -> str:
        """Return which action is none, and what is at fault."""
        where = self._planned(place[1:])
        if self._action.kind == "discrete":
            return f"The action is {value}, not one of 0 to {self._high}{where}: {FAULT}"
        if not np.isfinite(value):
            return f"The action is not finite{where}: {FAULT}"
        element = place[-1]
        low, high = self._action.low[element], self._action.high[element]
        return (
            f"The action's '{self._action.elements[element]}' is {value:g}{where}, out of its bounds {low:g} to"
            f" {high:g}. Clip it in the policy, or leave the bounds out of its ActionSpec."
        )

    def _not_finite(self, scores: np.ndarray, *place: int) -> str:
        """Return which score is not finite, and what is at fault: a mask, or the network."""
        where = f" in row {place[0]}" if self._batch > 1 else ""
        said = f"The policy's scores are not finite: that of '{self._action.elements[place[-1]]}' is "
        said += f"{scores[place]}{where}{self._planned(place[1:])}"
        if self._action.kind == "discrete" and (np.isfinite(scores) | np.isneginf(scores)).all():
            return f"{said}. Is that a mask? Let it be a finite number: -1e8, or -6e4 where fp16 computes it."
        return f"{said}, of finite inputs. {FAULT[0].upper()}{FAULT[1:]}"

    def _planned(self, place: tuple[int, ...]) -> str:
        """Return which action of a chunk a place is in, in words; nothing where there is one alone."""
        return f" in action {place[0]} of its chunk" if self._action.horizon > 1 else ""


def _places(bad: np.ndarray, rows: np.ndarray | None) -> tuple[int, ...] | None:
    """Return the first place that is bad in one of the rows, or None."""
    if not bad.any():
        return None
    if rows is not None:
        bad = bad & rows.reshape(-1, *(1,) * (bad.ndim - 1))
    return tuple(int(i) for i in np.argwhere(bad)[0]) if bad.any() else None


def blame(inputs: Arrays, rows: np.ndarray | None, error: ScoresError) -> None:
    """Blame what was given, where it is not finite in rows that are used.

    Raises:
        ObservationError: With the first place.
    """
    for name, array in inputs.items():
        if array.dtype.kind == "f" and (bad := _places(~np.isfinite(array), rows)) is not None:
            row, *place = bad
            where = ", ".join([*([f"element {place}"] if place else []), *([f"row {row}"] if len(array) > 1 else [])])
            raise ObservationError(
                f"{name} holds {array[bad]} ({where}), of which the policy makes no action."
            ) from error


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
