"""Trajectories: recorded observations with the moments at which episodes began, and perhaps what was done.

One format serves a trained policy's recorded observations (calibration, held-out) and a bundle's golden trajectories:
gzipped safetensors, so that a file holds arrays and nothing that runs.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from xfer.errors import RunError
from xfer.files import write_atomically
from xfer.runner import Runner

GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Trajectories:
    """T consecutive steps of one or more episodes, one after the other.

    Attributes:
        observations: Arrays [T, ...] by name, as the environment gave them.
        resets: bool [T], true where an episode begins.
        actions: [T] or [T, A], what a policy chose, or None.
        scores: float32 [T, A], what it chose from, or None.
        starts: float32 [number of resets, ...] by name of the state: what each stretch starts from; empty where that is
            zeros, as at the beginning of an episode.
    """

    observations: dict[str, np.ndarray]
    resets: np.ndarray
    actions: np.ndarray | None = field(default=None)
    scores: np.ndarray | None = field(default=None)
    starts: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.resets)

    def steps(self) -> Iterator[tuple[bool, dict[str, np.ndarray]]]:
        """Yield (does an episode begin here, observations without a batch dimension)."""
        for t in range(len(self)):
            yield bool(self.resets[t]), {name: array[t] for name, array in self.observations.items()}

    def episodes(self) -> list[slice]:
        """Return where each episode lies."""
        starts = [*np.flatnonzero(self.resets), len(self)]
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(starts)]

    def take(self, parts: list[slice]) -> Trajectories:
        """Return the given stretches, each the beginning of an episode."""
        index = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        return Trajectories(
            {name: array[index] for name, array in self.observations.items()},
            self.resets[index],
            None if self.actions is None else self.actions[index],
            None if self.scores is None else self.scores[index],
        )

    def replay(self, runner: Runner) -> Trajectories:
        """Return the same observations with what ``runner`` (batch 1) does when it is shown them."""
        actions, scores = [], []
        for begins, observations in self.steps():
            if begins:
                runner.reset()
            step = runner.act(observations)
            actions.append(step.action)
            scores.append(step.scores)
        return Trajectories(self.observations, self.resets, np.array(actions), np.array(scores))

    def digest(self) -> str:
        """Return the SHA-256 of the observations and of where episodes begin."""
        digest = hashlib.sha256(self.resets.tobytes())
        for name in sorted(self.observations):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.observations[name]).data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a ``.safetensors.gz`` file; the same trajectories give the same bytes."""
        arrays = {f"observations.{name}": array for name, array in self.observations.items()}
        arrays["resets"] = self.resets
        if self.actions is not None and self.scores is not None:
            arrays |= {"actions": self.actions, "scores": self.scores}
        # Level 1: rendered frames are mostly flat, and more effort saves nothing worth the time.
        write_atomically(path, gzip.compress(save(arrays), compresslevel=1, mtime=0))


def load_trajectories(path: Path) -> Trajectories:
    """Read what ``Trajectories.save`` wrote, gzipped or not.

    Raises:
        RunError: If the file is missing or damaged.
    """
    try:
        data = path.read_bytes()
        arrays = load(gzip.decompress(data) if data.startswith(GZIP) else data)
        observations = {
            name.removeprefix("observations."): array
            for name, array in arrays.items()
            if name.startswith("observations.")
        }
        return Trajectories(observations, arrays["resets"], arrays.get("actions"), arrays.get("scores"))
    except (OSError, EOFError, SafetensorError, KeyError) as error:
        raise RunError(f"{path} is missing or damaged ({error}). Make it again.") from error
