"""LeRobot's processors as plain values: which observation of the robot each input is, and its statistics.

A processor is a list of steps. Of those, these stand between robot and network: observations are renamed, and numbers
are normalized by statistics of the dataset (``lerobot.processor.normalize_processor`` of LeRobot 0.6.1):

    MEAN_STD    (x - mean) / (std + eps)
    MIN_MAX     2 (x - min) / (max - min) - 1
    QUANTILES   the same with q01 and q99
    QUANTILE10  the same with q10 and q90
    IDENTITY    x

There, what has no statistics passes as it is. Here it is refused: a policy that sees meters where it learned from
deviations acts, and acts wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.importers._lerobot.files import WEIGHTS, read_json, read_tensors
from xfer.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
ACTION = "action"
RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
"""Statistics that become -1 and 1, by mode."""
MODES = ("IDENTITY", "MEAN_STD", *RANGES)
NOTHING = ("to_batch_processor", "device_processor")
"""Steps that move tensors and change no number."""
RENAME, NORMALIZE, UNNORMALIZE = "rename_observations_processor", "normalizer_processor", "unnormalizer_processor"


@dataclass(frozen=True)
class Feature:
    """What LeRobot says of an observation or of the action: its ``type`` (VISUAL, STATE ...) and shape."""

    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Scaling:
    """A normalization: (x - offset) / scale - shift; and its inverse, (y + shift) * unscale + offset.

    Attributes:
        offset: float32, of the feature's shape or to be broadcast to it.
        scale: What is divided by.
        unscale: What is multiplied with.
        shift: 0 or 1.
    """

    offset: Tensor
    scale: Tensor
    unscale: Tensor
    shift: float


@dataclass(frozen=True)
class Input:
    """One input of the network: the robot's name for it, and what is done to its numbers, first to last."""

    observed: str
    scalings: tuple[Scaling, ...]


@dataclass(frozen=True)
class _Step:
    """An entry of ``steps`` in a processor's file; what is not registered is named by its class."""

    name: str
    config: Mapping[str, Any]
    state_file: str


@dataclass(frozen=True)
class Processor:
    """A processor's file.

    Attributes:
        file: It.
        steps: Its steps that change something.
        statistics: Of each step, tensors by the names of feature and statistic: ``observation.state.mean``.
    """

    file: Path
    steps: Sequence[_Step]
    statistics: Sequence[Mapping[str, Tensor]]


def read(file: Path, known: tuple[str, ...]) -> Processor:
    """Read a processor with the tensors that its steps name.

    Args:
        file: The processor's file.
        known: Steps that may be in it, besides those that do nothing.

    Raises:
        UsageError: If a step is another one, with its name; or there is no such file.
        WeightsError: If a file is damaged or missing.
    """
    if not file.is_file():
        raise UsageError(
            f"{file} is not there: without it nobody knows the policy's statistics. LeRobot writes it beside"
            f" {WEIGHTS} since 0.4; convert an older policy with LeRobot's own"
            f" `python -m lerobot.processor.migrate_policy_normalization --pretrained-path {file.parent}`."
        )
    entries = read_json(file, dict[str, Any]).get("steps")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise WeightsError(f"{file} is not as LeRobot writes it: it has no list of steps.")
    steps = []
    for entry in entries:
        name = entry.get("registry_name") or entry.get("class") or "without a name"
        step = _Step(name, entry.get("config") or {}, entry.get("state_file") or "")
        if step.name == "device_processor" and step.config.get("float_dtype") not in (None, "float32"):
            raise UsageError(
                f"{file}: its device_processor casts to {step.config['float_dtype']}. Only float32 is taken."
            )
        if step.name in NOTHING:
            continue
        if step.name not in known:
            raise UsageError(
                f"{file}: its step '{step.name}' is none of {', '.join((*known, *NOTHING))}, and"
                " would be lost. Export the policy as module:function."
            )
        steps.append(step)
    return Processor(file, steps, [_tensors(file, step) for step in steps])


def _tensors(file: Path, step: _Step) -> Mapping[str, Tensor]:
    if not step.state_file:
        return {}
    if not (file.parent / step.state_file).is_file():
        raise WeightsError(
            f"{file.parent / step.state_file} is not there, which {file.name} names: statistics are missing."
        )
    return read_tensors(file.parent / step.state_file)


def of_input(processor: Processor, key: str, feature: Feature, modes: Mapping[str, str]) -> Input:
    """Follow an input of the network back to what the robot gives.

    Args:
        processor: The preprocessor.
        key: The network's name of it.
        feature: Its type and shape, as config.json has them.
        modes: Normalization by type, as config.json has it: what no step says.

    Raises:
        UsageError: If it is renamed from several names, or statistics are missing or of another shape.
    """
    observed, scalings, found = key, list[Scaling](), False
    for step, statistics in zip(reversed(processor.steps), reversed(processor.statistics), strict=True):
        if step.name == RENAME:
            renamed = step.config.get("rename_map") or {}
            names = [old for old, new in renamed.items() if new == observed]
            if len(names) > 1 or (observed in renamed and not names):
                raise UsageError(f"{processor.file}: its rename_map leaves no one name for {observed}: {renamed}.")
            observed = names[0] if names else observed
        elif _covers(step, observed):
            found = True
            scalings[:0] = _scaling(processor.file, step, statistics, observed, feature)
    if not found and modes.get(feature.type, "IDENTITY") != "IDENTITY":
        raise UsageError(
            f"{processor.file} normalizes no {key}, and config.json says {modes[feature.type]}: statistics are missing."
        )
    return Input(observed, tuple(scalings))


def of_action(processor: Processor, feature: Feature, modes: Mapping[str, str]) -> tuple[Scaling, ...]:
    """Return what is undone to the network's action, first to last.

    Raises:
        UsageError: If statistics are missing or of another shape.
    """
    undone, found = list[Scaling](), False
    for step, statistics in zip(processor.steps, processor.statistics, strict=True):
        if _covers(step, ACTION):
            found = True
            undone += _scaling(processor.file, step, statistics, ACTION, feature)
    if not found and modes.get(feature.type, "IDENTITY") != "IDENTITY":
        raise UsageError(
            f"{processor.file} unnormalizes no action, and config.json says {modes[feature.type]}: statistics are"
            " missing."
        )
    return tuple(undone)


def _covers(step: _Step, key: str) -> bool:
    only = step.config.get("normalize_observation_keys")
    return key in (step.config.get("features") or {}) and (only is None or key == ACTION or key in only)


def _scaling(
    file: Path, step: _Step, statistics: Mapping[str, Tensor], key: str, feature: Feature
) -> Sequence[Scaling]:
    """Return what a step does to one feature: nothing, or one thing."""
    import torch

    kind = step.config["features"][key].get("type", feature.type)
    mode = (step.config.get("norm_map") or {}).get(kind, "IDENTITY")
    if mode == "IDENTITY":
        return []
    if mode not in MODES:
        raise UsageError(f"{file}: {key} is normalized by {mode}, which is none of {', '.join(MODES)}.")
    first, second = RANGES.get(mode, ("mean", "std"))
    values = []
    for name in (first, second):
        where = f"{key}.{name}"
        if where not in statistics:
            raise UsageError(
                f"{file}: {key} is normalized by {mode}, and its statistics are missing: no '{where}' in"
                f" {step.state_file or 'any file'}. LeRobot would let it pass unchanged; train with a dataset that has"
                " them."
            )
        value = statistics[where].float()
        if feature.type == "VISUAL" and value.dim() == 1:
            value = value.reshape(-1, 1, 1)
        if not _fits(value, feature.shape):
            raise UsageError(
                f"{file}: '{where}' in {step.state_file} has shape {list(statistics[where].shape)}; {key} is"
                f" {list(feature.shape)}."
            )
        if not bool(torch.isfinite(value).all()):
            raise UsageError(f"{file}: '{where}' in {step.state_file} is not finite.")
        values.append(value)
    low, high = values
    eps = float(step.config.get("eps", 1e-8))
    if mode == "MEAN_STD":
        return [Scaling(low, high + eps, high, 0.0)]
    width = torch.where(high == low, torch.tensor(eps), high - low) / 2
    return [Scaling(low, width, width, 1.0)]


def _fits(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether statistics are one number, one for each element of a vector, or one for each channel of an image."""
    channels = (shape[0], *(1,) * (len(shape) - 1))
    return value.numel() == 1 or tuple(value.shape) in (shape, channels)
