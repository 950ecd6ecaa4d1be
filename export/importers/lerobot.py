"""A policy that LeRobot trained: ACT (https://github.com/huggingface/lerobot). LeRobot itself is never imported.

Names of the robot's observations become short ones: ``observation.images.top`` is ``top``, ``observation.image`` is
``image``, ``observation.state`` is ``state``; see ``short_names``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from export.importers._deployable import Deployable
from export.importers._lerobot.config import ACTConfig, read_config
from export.importers._lerobot.files import WEIGHTS, find, read_tensors, trained_hz
from export.importers._lerobot.processors import (
    NORMALIZE,
    POSTPROCESSOR,
    PREPROCESSOR,
    RENAME,
    UNNORMALIZE,
    of_action,
    of_input,
    read,
)
from xfer import tasks
from xfer.errors import UsageError
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.tasks import Task

LONG = re.compile(r"observation\.(images\.)?")
"""What the names of LeRobot's observations begin with."""
TAKEN = ("action", "scores")


def load(
    path: Path,
    *,
    task: str = "",
    control_hz: float | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> Deployable:
    """Return the policy that a folder of LeRobot's holds.

    Args:
        path: Its ``pretrained_model`` folder, a checkpoint, or the output folder of ``lerobot-train``.
        task: Where it acts, or empty.
        control_hz: Rate at which it acts, in Hz; by default the task's, or that of what it was trained on.
        on_note: Called with what its observations are called here.

    Raises:
        UsageError: If it is of another type, has a field or a step that is not taken, lacks statistics, or does not
            fit the other arguments.
        WeightsError: If a file is missing or damaged, or its weights are not of its configuration.
        UnavailableError: If the task's simulator is not installed.
    """
    from export.importers._lerobot.act import loaded
    from export.importers._lerobot.module import LeRobotModule

    folder = find(path)
    config = read_config(folder)
    before, after = read(folder / PREPROCESSOR, (RENAME, NORMALIZE)), read(folder / POSTPROCESSOR, (UNNORMALIZE,))
    modes = config.normalization_mapping
    images = [of_input(before, key, feature, modes) for key, feature in config.images.items()]
    vectors = [of_input(before, key, feature, modes) for key, feature in config.vectors.items()]
    action = of_action(after, config.action, modes)
    acts_in = tasks.load(task) if task else None
    observed = [one.observed for one in (*images, *vectors)]
    observations = observations_of(config, observed)
    if acts_in is not None:
        observations = matched(observations, acts_in)
    if control_hz is None:
        control_hz = trained_hz(folder) if acts_in is None else acts_in.control_hz
    spec = PolicySpec(task, control_hz, observations, (), action_of(config, acts_in), "mean")
    network = loaded(config, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    module = LeRobotModule(network, [one.scalings for one in images], [one.scalings for one in vectors], action)
    pairs = zip(observations, observed, strict=True)
    on_note(f"observations: {', '.join(f'{tensor.name} is {key}' for tensor, key in pairs)}")
    return Deployable(module.eval(), spec)


def short_names(keys: Iterable[str]) -> list[str]:
    """Return names for LeRobot's observations that serve in Python, C++ and graphs: the last part of each.

    Where two would be called the same, or one as an output, both keep all of their parts.

    Example:
        >>> short_names(["observation.images.top", "observation.image", "observation.state"])
        ['top', 'image', 'state']
        >>> short_names(["observation.images.state", "observation.state"])
        ['observation_images_state', 'observation_state']
    """
    keys = list(keys)
    short = [LONG.sub("", key, count=1) for key in keys]
    clear = [name for name in short if short.count(name) == 1 and name not in TAKEN]
    return [re.sub(r"\W", "_", name if name in clear else key) for name, key in zip(short, keys, strict=True)]


def observations_of(config: ACTConfig, observed: Iterable[str]) -> tuple[TensorSpec, ...]:
    """Return what the robot gives, in the module's order.

    Args:
        config: The policy's configuration.
        observed: The robot's name of each image, then of each vector.
    """
    names = iter(short_names(observed))
    images = [
        TensorSpec(next(names), "uint8", (*one.shape[1:], one.shape[0]), color_order="RGB", value_range=(0, 255))
        for one in config.images.values()
    ]
    return (*images, *(TensorSpec(next(names), "float32", one.shape) for one in config.vectors.values()))


def action_of(config: ACTConfig, acts_in: Task | None) -> ActionSpec:
    """Return the contract of the chunk. It has no bounds: LeRobot clips nothing."""
    size, horizon = config.action.shape[0], config.chunk_size
    named = acts_in is not None and len(acts_in.action.elements) == size and acts_in.action.kind == "continuous"
    elements = acts_in.action.elements if acts_in and named else tuple(f"action{i}" for i in range(size))
    unit = acts_in.action.unit if acts_in and named else ""
    ensemble = config.temporal_ensemble_coeff if horizon > 1 else None  # of one plan the mean is itself
    return ActionSpec("continuous", elements, unit, horizon=horizon, execute=config.n_action_steps, ensemble=ensemble)


def matched(observations: tuple[TensorSpec, ...], acts_in: Task) -> tuple[TensorSpec, ...]:
    """Return the task's own observations in the policy's order: of the same name, else the only ones of that shape.

    Raises:
        UsageError: If one has no counterpart, or several.
    """
    named = {tensor.name: tensor for tensor in acts_in.observations}
    free = [tensor for tensor in acts_in.observations if tensor.name not in {one.name for one in observations}]
    found = []
    for one in observations:
        alike = [tensor for tensor in free if (tensor.dtype, tensor.shape) == (one.dtype, one.shape)]
        twins = [other for other in observations if other.name not in named]
        twins = [other for other in twins if (other.dtype, other.shape) == (one.dtype, one.shape)]
        if one.name in named:
            found.append(named[one.name])
        elif len(alike) == 1 and len(twins) == 1:
            found.append(alike[0])
        else:
            given = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in acts_in.observations)
            raise UsageError(
                f"Task {acts_in.name} gives {given}; the policy sees {one.name} {one.dtype} {list(one.shape)}, which is"
                " none of them by its name, nor the only one of its shape."
            )
    return tuple(found)
