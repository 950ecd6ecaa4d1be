"""Writes episodes as a Minari dataset (https://minari.farama.org), whole or not at all.

Minari keeps an episode of T steps as T + 1 observations and T actions. It would keep images as JPEG; what is written
here is lossless, so that a policy learns from the very frames that it will see.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xfer.errors import UnavailableError, UsageError
from xfer.runner import Arrays
from xfer.tasks import Task
from xfer.tasks._environment import Environment

EPISODES = 10
"""Episodes in a dataset, where nothing else is said."""

PART_BYTES = 64 * 2**20
"""How much of an episode is held in memory before it is written."""


class EpisodeWriter:
    """Appends episodes to a dataset, in parts, so that memory does not grow with their length."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.episodes = self.steps = 0
        self._clear()

    def begin(self, seed: int, observations: Arrays) -> None:
        """Start an episode with what ``reset(seed)`` showed."""
        self.seed: int | None = seed
        self.episode_steps = 0
        self._clear()
        self.observations.append(observations)
        self._make_room(observations)

    def step(self, action: Any, observations: Arrays, reward: float, terminated: bool, truncated: bool) -> None:
        """Add what was done, and what followed."""
        self.observations.append(observations)
        self.actions.append(action)
        self.rewards.append(reward)
        self.terminations.append(terminated)
        self.truncations.append(truncated)
        self.episode_steps += 1
        held = len(self.observations) * sum(array.nbytes for array in observations.values())
        if terminated or truncated or held >= PART_BYTES:
            self._write()
        if terminated or truncated:
            self.storage.update_episode_metadata([{"total_steps": self.episode_steps}], [self.episodes])
            self.episodes += 1
            self.steps += self.episode_steps

    def _clear(self) -> None:
        self.observations: list[Arrays] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.terminations: list[bool] = []
        self.truncations: list[bool] = []

    def _write(self) -> None:
        from minari.data_collector import EpisodeBuffer

        part = EpisodeBuffer(
            id=self.episodes,
            seed=self.seed,
            observations={name: np.stack([o[name] for o in self.observations]) for name in self.observations[0]},
            actions=np.stack(self.actions),
            rewards=self.rewards,
            terminations=self.terminations,
            truncations=self.truncations,
        )
        self.storage.update_episodes([part])
        self.seed = None  # it is written with the first part
        self._clear()

    def _make_room(self, observations: Arrays) -> None:
        """Create the images' arrays compressed, which Minari does not do; it appends to what exists."""
        import h5py

        with h5py.File(self.storage.data_path / "main_data.hdf5", "a", track_order=True) as file:
            group = file.create_group(f"episode_{self.episodes}/observations")
            for name, array in observations.items():
                if array.ndim == 3:
                    shape, most = (0, *array.shape), (None, *array.shape)
                    # Level 1: rendered frames are mostly flat, and more effort saves nothing worth the time.
                    group.create_dataset(
                        name, shape, array.dtype, maxshape=most, chunks=(1, *array.shape), compression=1
                    )


@contextmanager
def new_dataset(output: str, task: Task, algorithm: str) -> Iterator[tuple[EpisodeWriter, str, Path]]:
    """Write a dataset that is there as a whole when the context ends well, and not at all otherwise.

    Args:
        output: A Minari dataset's name (``cartpole/expert-v0``; it goes to where Minari keeps its own), or a folder.
        task: Whose observations and actions it holds.
        algorithm: Who acts, in words.

    Yields:
        The writer, the dataset's name and the folder where it will be.

    Raises:
        UsageError: If there is something at ``output`` already, or it cannot be written to.
        UnavailableError: If Minari is not installed.
    """
    minari = require_minari()
    from minari.dataset.minari_storage import MinariStorage

    from xfer import __version__

    name, folder = place(output)
    if folder.exists():
        raise UsageError(f"--output {output}: {folder} exists already. Choose another, or delete it.")
    env = Environment(task)
    observation_space, action_space = env.observation_space, env.action_space
    env.close()
    try:
        beside = next(parent for parent in folder.absolute().parents if parent.exists())
        temporary = Path(tempfile.mkdtemp(dir=beside, prefix=f".{folder.name}."))
    except OSError as error:
        raise UsageError(f"--output {output}: {beside} cannot be written to ({error.strerror}).") from error
    try:
        storage = MinariStorage.new(
            temporary / "data", observation_space, action_space, data_format="hdf5", jpeg_encoding=False
        )
        writer = EpisodeWriter(storage)
        yield writer, name, folder
        about = {"algorithm_name": algorithm, "description": f"xfer task {task.name}, {task.control_hz:g} Hz"}
        storage.update_metadata(
            {"dataset_id": name, "minari_version": minari.__version__, "author": {f"xfer {__version__}"}, **about}
        )
        temporary.chmod(0o755)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def place(output: str) -> tuple[str, Path]:
    """Return a dataset's name and folder from what a user wrote: either of them."""
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage.datasets_root_dir import get_dataset_path

    if re.search(r"-v\d+$", output) and DATASET_ID_RE.fullmatch(output):
        return output, Path(get_dataset_path(output))
    folder = Path(output).expanduser()
    name = re.sub(r"[^-\w]", "-", folder.name)
    return name if re.search(r"-v\d+$", name) else f"{name}-v0", folder


def require_minari() -> Any:
    """Return the module ``minari``.

    Raises:
        UnavailableError: If it, or what it keeps HDF5 with, is not installed.
    """
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise UnavailableError(f"{error}: pip install 'xfer-policy[demonstrations]'") from error
    return minari
