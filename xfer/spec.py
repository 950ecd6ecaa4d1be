"""PolicySpec: the contract between a policy and whatever runs it, as frozen plain values.

The manifest, the ONNX metadata, every runtime and the tests read this one description. It needs no torch.
All shapes leave out the batch dimension, which always comes first. JSON in and out goes through msgspec,
which checks names and types and says where they are wrong; what they mean is checked here, when one is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
MOST_EXPONENT = 80.0
"""exp of more than about 88 is no float32; weights are summed up too."""


def _ascending(values: Sequence[float], *, equal: bool = False) -> bool:
    """Whether two values are finite, and the first is the smaller one."""
    low, high = values
    return math.isfinite(low) and math.isfinite(high) and (low <= high if equal else low < high)


def _check_count(where: str, field: str, value: int) -> None:
    """Refuse what is no number of times.

    Raises:
        UsageError: With the field.
    """
    if not isinstance(value, int) or value < 1:
        raise UsageError(f"{where}: {field} {value} must be a whole number, 1 or more.")


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor, without its batch dimension.

    Attributes:
        name: Name in Python, in the exported graph and in C++.
        dtype: NumPy name: ``uint8``, ``int64`` or ``float32``.
        shape: Shape of one row of the batch; of one frame, where there are several.
        elements: Names of the elements of a vector, or empty.
        unit: Unit of a vector's elements (``rad``, ``N m``), or empty.
        color_order: ``RGB``, ``BGR`` or ``gray`` for an image, else empty.
        value_range: Smallest and largest value, where there is one.
        frames: How many of an observation's last values the network sees at once, oldest first: float or integer
            [B, frames, *shape]. With 1 it sees [B, *shape]. The runner keeps them; at the beginning of an episode they
            are copies of the first.

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
    frames: int = 1

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
        _check_count(where, "frames", self.frames)

    @property
    def stacked(self) -> TensorSpec:
        """The tensor as the network takes it: itself, or its frames as a first axis."""
        return self._repeated(self.frames)

    def _repeated(self, times: int) -> TensorSpec:
        """Return itself, or so many of it along a first axis."""
        return self if times == 1 else replace(self, shape=(times, *self.shape), elements=(), frames=1)

    def zeros(self, batch: int) -> np.ndarray:
        """Return zeros of shape [batch, *shape]."""
        return np.zeros((batch, *self.shape), self.dtype)


@dataclass(frozen=True)
class ActionSpec:
    """What the environment takes.

    Attributes:
        kind: ``discrete`` gives int64 [B]; ``continuous`` gives float32 [B, len(elements)]. A chunk of H actions is
            int64 [B, H] or float32 [B, H, len(elements)].
        elements: Name of each discrete action, or of each element of a continuous one.
        unit: Unit of a continuous action's elements.
        low: Lower bounds of a continuous action, one for each element; empty, as ``high``, where it has none. Nothing
            is clipped then.
        high: Upper bounds of a continuous action.
        horizon: How many actions one inference plans ahead, H: those of this tick and the next ones. With more than 1
            the network gives a chunk.
        execute: How many of them are acted before the next inference.
        ensemble: Coefficient m of temporal ensembling, for a continuous action with ``execute`` 1: what is acted is the
            mean of all that was planned for this tick, weighted by exp(-m i), the oldest first (Zhao et al. 2023,
            "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", algorithm 2). None acts the newest.

    Raises:
        UsageError: If there are no elements, or bounds are not finite, not one for each element, or not below another;
            or if the chunk's numbers do not fit each other.
    """

    kind: Literal["discrete", "continuous"]
    elements: tuple[str, ...]
    unit: str = ""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    horizon: int = 1
    execute: int = 1
    ensemble: float | None = None

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
        self._check_chunk()
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

    def _check_chunk(self) -> None:
        """Refuse numbers of a chunk that do not fit each other.

        Raises:
            UsageError: With the field.
        """
        for field in ("horizon", "execute"):
            _check_count("ActionSpec", field, getattr(self, field))
        if self.execute > self.horizon:
            raise UsageError(
                f"ActionSpec: execute {self.execute} is more than horizon {self.horizon}: only what was planned can be"
                " acted."
            )
        if self.ensemble is None:
            return
        if not (math.isfinite(self.ensemble) and -self.ensemble * self.horizon < MOST_EXPONENT):
            raise UsageError(
                f"ActionSpec: ensemble {self.ensemble} gives weights exp(-m i) beyond float32; ACT's is 0.01."
            )
        if self.kind == "discrete":
            raise UsageError("ActionSpec: ensemble is for a continuous action: discrete ones have no mean.")
        if self.horizon == 1:
            raise UsageError("ActionSpec: ensemble needs a horizon above 1: there is one plan for each tick else.")
        if self.execute != 1:
            raise UsageError(
                f"ActionSpec: ensemble needs execute 1, not {self.execute}: each tick has an inference of its own."
            )

    @property
    def tensor(self) -> TensorSpec:
        """The action of one tick as a tensor: what the environment takes."""
        if self.kind == "discrete":
            return TensorSpec("action", "int64", (), value_range=(0, len(self.elements) - 1))
        return TensorSpec("action", "float32", (len(self.elements),), self.elements, self.unit)

    @property
    def chunk(self) -> TensorSpec:
        """What one inference gives as a tensor: the action of one tick, or H of them along a first axis."""
        return self.tensor._repeated(self.horizon)


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
        if framed := [state.name for state in self.states if state.frames > 1]:
            raise UsageError(f"PolicySpec: state '{framed[0]}' has frames; they are of an observation.")
        if self.states and self.action.execute > 1:
            raise UsageError(
                f"PolicySpec: execute {self.action.execute} does not go with states ('{self.states[0].name}'), which"
                " advance at each tick. Use execute 1, or an observation with frames in place of the state."
            )
        kinds = ("mean",) if self.action.kind == "continuous" else ("logits", "values")
        if self.score_kind not in kinds:
            raise UsageError(
                f"PolicySpec: score_kind '{self.score_kind}' does not fit a {self.action.kind} action: use"
                f" {' or '.join(kinds)}."
            )

    @property
    def scores(self) -> TensorSpec:
        """The scores of one tick as a tensor: float32 [B, S], S being the number of actions or action elements."""
        return TensorSpec("scores", "float32", (len(self.action.elements),), self.action.elements)

    @property
    def chunk_scores(self) -> TensorSpec:
        """The scores of one inference as a tensor: float32 [B, S], or [B, H, S] of a chunk."""
        return self.scores._repeated(self.action.horizon)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs in order, as it takes them: observations with their frames, then states."""
        return tuple(observation.stacked for observation in self.observations) + self.states

    @property
    def starts(self) -> tuple[TensorSpec, ...]:
        """What a stretch from the middle of an episode starts from: states, and the frames before its first one."""
        framed = (o for o in self.observations if o.frames > 1)
        before = (replace(o, shape=(o.frames - 1, *o.shape), elements=(), frames=1) for o in framed)
        return self.states + tuple(before)

    @property
    def queued(self) -> bool:
        """Whether a runner must keep chunks or frames for it, beside states."""
        return self.action.horizon > 1 or any(observation.frames > 1 for observation in self.observations)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs in order: action, scores, then the next states."""
        return ("action", "scores", *(state.name + STATE_SUFFIX for state in self.states))

    @property
    def bytes_per_step(self) -> int:
        """Size of one tick of all observations in one row, in bytes: of one frame of each."""
        return sum(math.prod(o.shape) * np.dtype(o.dtype).itemsize for o in self.observations)
