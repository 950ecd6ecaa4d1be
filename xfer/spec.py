"""PolicySpec: the contract between a policy and whatever runs it, as frozen plain values.

The manifest, the ONNX metadata, every runtime and the tests read this one description. It needs no torch.
All shapes leave out the batch dimension, which always comes first. JSON in and out goes through msgspec,
which checks names and types and says where they are wrong; what they mean is checked here, when one is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xfer.errors import UsageError

STATE_SUFFIX = "_out"
"""A state named ``history`` leaves the network as ``history_out``."""

ScoreKind = Literal["logits", "values", "mean"]

DTYPES = ("uint8", "int64", "float32")
COLOR_ORDERS = ("", "RGB", "BGR", "gray")
FLOAT_MAX = float(np.finfo(np.float32).max)
"""The largest float32: actions are such numbers, and so are their bounds."""


def _ascending(values: Sequence[float], *, equal: bool = False) -> bool:
    """Whether two values are finite, and the first is the smaller one."""
    low, high = values
    return math.isfinite(low) and math.isfinite(high) and (low <= high if equal else low < high)


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor, without its batch dimension.

    Attributes:
        name: Name in Python, in the exported graph and in C++.
        dtype: NumPy name: ``uint8``, ``int64`` or ``float32``.
        shape: Shape of one row of the batch.
        elements: Names of the elements of a vector, or empty.
        unit: Unit of a vector's elements (``rad``, ``N m``), or empty.
        color_order: ``RGB``, ``BGR`` or ``gray`` for an image, else empty.
        value_range: Smallest and largest value, where there is one.

    Raises:
        UsageError: If one of them means nothing, with its name.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: tuple[str, ...] = ()
    unit: str = ""
    color_order: str = ""
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        where = f"TensorSpec '{self.name}'"
        if not self.name:
            raise UsageError("TensorSpec: name is empty.")
        if self.dtype not in DTYPES:
            raise UsageError(f"{where}: dtype '{self.dtype}' is none of {', '.join(DTYPES)}.")
        if any(size < 1 for size in self.shape):
            raise UsageError(f"{where}: shape {list(self.shape)} has a size below 1 (leave out the batch dimension).")
        if self.elements and tuple(self.shape) != (len(self.elements),):
            raise UsageError(
                f"{where}: elements has {len(self.elements)} names for shape {list(self.shape)}. Name each, or none."
            )
        if self.color_order not in COLOR_ORDERS:
            raise UsageError(f"{where}: color_order '{self.color_order}' is none of RGB, BGR, gray.")
        if self.value_range is not None and not _ascending(self.value_range, equal=True):
            raise UsageError(
                f"{where}: value_range {self.value_range} must be finite, and its first value the smaller."
            )

    def zeros(self, batch: int) -> np.ndarray:
        """Return zeros of shape [batch, *shape]."""
        return np.zeros((batch, *self.shape), self.dtype)

    @property
    def is_image(self) -> bool:
        """Whether it is what a camera gives: uint8 [H, W, 3], or [H, W, 1] of a gray one."""
        return self.dtype == "uint8" and len(self.shape) == 3 and self.shape[2] in (1, 3)


@dataclass(frozen=True)
class ActionSpec:
    """What the environment takes.

    Attributes:
        kind: ``discrete`` gives int64 [B]; ``continuous`` gives float32 [B, len(elements)].
        elements: Name of each discrete action, or of each element of a continuous one.
        unit: Unit of a continuous action's elements.
        low: Lower bounds of a continuous action, one for each element; empty, as ``high``, where it has none. Nothing
            is clipped then.
        high: Upper bounds of a continuous action.

    Raises:
        UsageError: If there are no elements, or bounds are not finite, not one for each element, or not below another.
    """

    kind: Literal["discrete", "continuous"]
    elements: tuple[str, ...]
    unit: str = ""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in ("low", "high"):  # an array or a list, as environments have them
            if not isinstance(bounds := getattr(self, field), tuple):
                object.__setattr__(self, field, tuple(np.asarray(bounds).tolist()))
        if self.kind not in ("discrete", "continuous"):
            raise UsageError(f"ActionSpec: kind '{self.kind}' is none of discrete, continuous.")
        if not self.elements:
            raise UsageError("ActionSpec: elements is empty. Name each action, or each element of a continuous one.")
        if self.kind == "discrete" and (self.low or self.high):
            raise UsageError("ActionSpec: low and high are for a continuous action; leave them out.")
        if not self.low and not self.high:
            return
        if not len(self.low) == len(self.high) == len(self.elements):
            raise UsageError(
                f"ActionSpec: low has {len(self.low)} bounds and high {len(self.high)}, for {len(self.elements)}"
                " elements. Give one for each, or leave both out."
            )
        for name, low, high in zip(self.elements, self.low, self.high, strict=True):
            if not (-FLOAT_MAX <= low < high <= FLOAT_MAX and np.float32(low) < np.float32(high)):
                raise UsageError(
                    f"ActionSpec: element '{name}' has low {low:g} and high {high:g}: both must be finite, and low"
                    " below high, as float32. An action without bounds leaves both out."
                )

    @property
    def tensor(self) -> TensorSpec:
        """The action as a tensor."""
        if self.kind == "discrete":
            return TensorSpec("action", "int64", (), value_range=(0, len(self.elements) - 1))
        return TensorSpec("action", "float32", (len(self.elements),), self.elements, self.unit)


@dataclass(frozen=True)
class RewardScale:
    """What "worse" is measured in: mean return of a random policy and of a good one.

    Raises:
        UsageError: If they are not finite, or the good one's is not the greater.
    """

    random_return: float
    reference_return: float

    def __post_init__(self) -> None:
        if not _ascending((self.random_return, self.reference_return)):
            raise UsageError(
                f"RewardScale: reference_return {self.reference_return:g} must be greater than random_return"
                f" {self.random_return:g}, and both finite. Were they swapped?"
            )

    @property
    def span(self) -> float:
        """Reference return minus random return."""
        return self.reference_return - self.random_return


@dataclass(frozen=True)
class ImageConfig:
    """How a raw frame becomes the network's input; part of a policy's configuration.

    Attributes:
        crop: First row, end row, first column, end column of the part that is looked at, in pixels.
        shrink: Integer factor of the average pooling.
        gray: Whether colors are reduced to luma (ITU-R BT.601).
        frames: How many frames the network sees at once, the newest last.
        frame_step: How many control steps lie between two of them.
    """

    crop: tuple[int, int, int, int]
    shrink: int = 1
    gray: bool = True
    frames: int = 3
    frame_step: int = 1

    @property
    def channels(self) -> int:
        """Channels of one preprocessed frame."""
        return 1 if self.gray else 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        top, bottom, left, right = self.crop
        return (bottom - top) // self.shrink, (right - left) // self.shrink

    @property
    def past(self) -> int:
        """How many earlier frames must be kept."""
        return (self.frames - 1) * self.frame_step


@dataclass(frozen=True)
class PolicySpec:
    """Everything that a runtime must know about a policy besides its weights.

    Attributes:
        task: Name of the task, as ``xfer train`` takes it.
        control_hz: Rate at which actions are taken, in Hz.
        observations: What the environment or camera gives, in the order of the graph's inputs.
        states: What the network hands to its own next step, float32. An episode starts from zeros.
        action: What the environment takes.
        score_kind: What the action is chosen from: ``logits``, ``values`` (Q-values or a regressed score) or
            ``mean`` (continuous, before squashing).
        reward: The scale for verdicts, or None if unknown.

    Raises:
        UsageError: If they contradict one another, with the field's name.
    """

    task: str
    control_hz: float
    observations: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    action: ActionSpec
    score_kind: ScoreKind
    reward: RewardScale | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.control_hz) and self.control_hz > 0):
            raise UsageError(f"PolicySpec: control_hz {self.control_hz:g} must be a positive rate in Hz.")
        if not self.observations:
            raise UsageError("PolicySpec: observations is empty.")
        names = [tensor.name for tensor in self.inputs] + list(self.output_names)
        if doubled := {name for name in names if names.count(name) > 1}:
            raise UsageError(
                f"PolicySpec names two tensors '{min(doubled)}': inputs and outputs need names of their own."
            )
        if others := [state.name for state in self.states if state.dtype != "float32"]:
            raise UsageError(f"PolicySpec: state '{others[0]}' must be float32.")
        kinds = ("mean",) if self.action.kind == "continuous" else ("logits", "values")
        if self.score_kind not in kinds:
            raise UsageError(
                f"PolicySpec: score_kind '{self.score_kind}' does not fit a {self.action.kind} action: use"
                f" {' or '.join(kinds)}."
            )

    @property
    def scores(self) -> TensorSpec:
        """The scores as a tensor: float32 [B, number of actions or action elements]."""
        return TensorSpec("scores", "float32", (len(self.action.elements),), self.action.elements)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs in order: observations, then states."""
        return self.observations + self.states

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs in order: action, scores, then the next states."""
        return ("action", "scores", *(state.name + STATE_SUFFIX for state in self.states))

    @property
    def bytes_per_step(self) -> int:
        """Size of one row of all observations, in bytes."""
        return sum(math.prod(o.shape) * np.dtype(o.dtype).itemsize for o in self.observations)
