"""Demonstrations: experience in a Minari dataset (https://minari.farama.org), as imitation learns from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional

from xfer.errors import RunError, UnavailableError, UsageError
from xfer.runner import Arrays
from xfer.spec import ActionSpec
from xfer.tasks import Task
from xfer.training.imitation import Frames
from xfer.training.minari_writer import place, require_minari

if TYPE_CHECKING:
    from minari import MinariDataset

    from xfer.models.policy import Policy


def open_dataset(name: str, task: Task) -> MinariDataset:
    """Open a dataset that fits a task.

    Args:
        name: A folder, or the name of a dataset where Minari keeps its own.
        task: Whose observations and actions it should hold.

    Raises:
        UsageError: If there is no such dataset, or it is of something else.
        RunError: If its files are damaged.
        UnavailableError: If Minari, or what reads its format, is not installed.
    """
    minari = require_minari()
    folder = Path(name).expanduser()
    folder = folder if folder.is_dir() else place(name)[1]
    data = folder / "data" if (folder / "data").is_dir() else folder
    if not (data / "metadata.json").is_file():
        raise UsageError(
            f"--demonstrations {name}: there is no Minari dataset in {folder}. Record one with `xfer record`, or fetch"
            " one with `minari download`."
        )
    try:
        dataset = minari.MinariDataset(data)
    except ImportError as error:
        raise UnavailableError(f"--demonstrations {name}: {error}") from error
    except (ValueError, KeyError, AssertionError, OSError) as error:
        raise RunError(f"{data} cannot be read: {' '.join(str(error).split())}") from error
    difference = _difference(dataset, task)
    if difference:
        raise UsageError(f"--demonstrations {name} is not of task {task.name}: {difference}.")
    if not dataset.total_steps:
        raise UsageError(f"--demonstrations {name} is empty.")
    return dataset


def _difference(dataset: MinariDataset, task: Task) -> str:
    """Say what in a dataset does not fit the task, or return an empty string."""
    found = _named(dataset.observation_space, task)
    for tensor in task.observations:
        space = found.get(tensor.name)
        if space is None:
            return f"it has no observation '{tensor.name}' (but {', '.join(found) or 'none'})"
        if (str(space.dtype), space.shape) != (tensor.dtype, tensor.shape):
            there, here = f"{space.dtype} {list(space.shape or ())}", f"{tensor.dtype} {list(tensor.shape)}"
            return f"'{tensor.name}' is {there} there, {here} in the task"
    there, here = _action(dataset.action_space), _action_of(task.action)
    return "" if there == here else f"its action is {there}, the task's {here}"


def _named(space: spaces.Space[Any], task: Task) -> dict[str, spaces.Space[Any]]:
    """Return the spaces of observations by name; a single one without a name is the task's only one."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {task.observations[0].name: space}


def _action(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Discrete):
        return f"one of {space.n}"
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return _bounds(space.low, space.high)
    return str(space)


def _action_of(action: ActionSpec) -> str:
    return f"one of {len(action.elements)}" if action.kind == "discrete" else _bounds(action.low, action.high)


def _bounds(low: Any, high: Any) -> str:
    return ", ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True))


def frames(
    dataset: MinariDataset,
    policy: Policy,
    task: Task,
    device: str = "cpu",
    tick: Callable[[int], None] = lambda frames: None,
) -> Frames:
    """Turn demonstrations into what ``imitation.fit`` learns from.

    Args:
        dataset: What ``open_dataset`` returned for the task.
        policy: Says what becomes of a frame; its history starts anew with each episode.
        task: The task.
        device: Where the policy is.
        tick: Called with the number of frames after each.

    Returns:
        Frames whose ``expert`` is what was done: float32 [N, A], one-hot for discrete actions, else in the
        environment's units.

    Raises:
        RunError: If the dataset's files are damaged.
    """
    seen_all, vectors, actions, lengths = [], [], [], []
    start = int(getattr(dataset.action_space, "start", 0))
    for observations, done in _episodes(dataset, task):
        history = torch.zeros(1, *policy.history_shape, device=device)
        for t in range(len(done)):
            tensors = {name: torch.from_numpy(array[t : t + 1]).to(device) for name, array in observations.items()}
            with torch.inference_mode():
                history = policy.begun(tensors[policy.frame_name], history, torch.tensor([t == 0], device=device))
                seen, history = policy.see(tensors[policy.frame_name], history)
                vectors.append(policy.vector(tensors).cpu())
            seen_all.append(seen.cpu())
            tick(1)
        if task.action.kind == "discrete":
            chosen = torch.from_numpy(done.astype(np.int64)) - start
            actions.append(functional.one_hot(chosen, len(task.action.elements)).float())
        else:
            actions.append(torch.from_numpy(done.astype(np.float32)))
        lengths.append(len(done))
    episode = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return Frames(torch.cat(seen_all), torch.cat(actions), torch.cat(vectors), episode)


def _episodes(dataset: MinariDataset, task: Task) -> Iterator[tuple[Arrays, np.ndarray]]:
    """Yield each episode's observations and actions; the observation after the last action is of no use here."""
    try:
        for episode in dataset.iterate_episodes():
            observed = episode.observations
            if not isinstance(observed, dict):
                observed = {task.observations[0].name: observed}
            yield {tensor.name: observed[tensor.name] for tensor in task.observations}, episode.actions
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{dataset.storage.data_path} is damaged: {' '.join(str(error).split())}") from error
