"""Trajectories: recorded observations with the moments at which episodes began, and perhaps what was done.

One format serves a trained policy's recorded observations (calibration, held-out) and a bundle's golden trajectories:
gzipped safetensors, so that a file holds arrays and nothing that runs.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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

    def starting(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the states that a runner of a batch is reset to at these steps, as ``Runner.reset`` takes them.

        Args:
            rows: Which step each row of the batch is at, int [B].

        Returns:
            Of the rows at which a stretch begins, in their order, [number of them, ...]; empty where that is zeros.
        """
        stretch = np.cumsum(self.resets)[rows[self.resets[rows]]] - 1
        return {name: array[stretch] for name, array in self.starts.items()}

    def take(self, parts: Sequence[slice], starts: Mapping[str, np.ndarray] | None = None) -> Trajectories:
        """Return some stretches.

        Args:
            parts: Where they are; each becomes an episode of its own.
            starts: What each of them starts from, [number of parts, ...] by name of the state. By default what it
                started from here, and then each must begin where an episode does.
        """
        index = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        begins = np.cumsum([0, *(part.stop - part.start for part in parts)])[:-1]
        resets = self.resets[index]
        resets[begins] = True
        return Trajectories(
            {name: array[index] for name, array in self.observations.items()},
            resets,
            None if self.actions is None else self.actions[index],
            None if self.scores is None else self.scores[index],
            self.starting(index) if starts is None else dict(starts),
        )

    def replay(self, runner: Runner) -> Trajectories:
        """Return the same observations with what ``runner`` (batch 1) does when it is shown them."""
        actions, scores = [], []
        for t, (begins, observations) in enumerate(self.steps()):
            if begins:
                runner.reset(states=self.starting(np.array([t])))
            step = runner.act(observations)
            actions.append(step.action)
            scores.append(step.scores)
        return replace(self, actions=np.array(actions), scores=np.array(scores))

    def digest(self) -> str:
        """Return the SHA-256 of the observations, of where episodes begin and of what they start from."""
        digest = hashlib.sha256(self.resets.tobytes())
        for arrays in (self.observations, self.starts):
            for name in sorted(arrays):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(arrays[name]).data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a ``.safetensors.gz`` file; the same trajectories give the same bytes."""
        arrays = {f"observations.{name}": array for name, array in self.observations.items()}
        arrays |= {f"starts.{name}": array for name, array in self.starts.items()}
        arrays["resets"] = self.resets
        arrays |= {} if self.actions is None else {"actions": self.actions}
        arrays |= {} if self.scores is None else {"scores": self.scores}
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
        observations, starts = (
            {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            for prefix in ("observations.", "starts.")
        )
        return Trajectories(observations, arrays["resets"], arrays.get("actions"), arrays.get("scores"), starts)
    except (OSError, EOFError, SafetensorError, KeyError) as error:
        raise RunError(f"{path} is missing or damaged ({error}). Make it again.") from error
