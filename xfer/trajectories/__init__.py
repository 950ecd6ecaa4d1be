"""Trajectories: recorded observations with the moments at which episodes began, and perhaps what was done.

One format serves a trained policy's recorded observations (calibration, held-out) and a bundle's golden trajectories:
gzipped safetensors, so that a file holds arrays and nothing that runs. Observations that are too many for memory stay
in their file, and are read some rows at a time.

rows.py     arrays of rows that need not be in memory
chunks.py   what a policy that plans ahead acts
reading.py  safetensors files that need not fit into it, and are not trusted; streams.py unpacks them
writing.py  writes them a few rows at a time
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from xfer.errors import RunError
from xfer.runner import Runner
from xfer.trajectories.reading import Tensor, TensorFile
from xfer.trajectories.rows import ChosenRows, Rows, pieces
from xfer.trajectories.writing import write_steps, write_tensors

MEMORY = 1_000_000_000
"""Bytes of observations that are in memory at once, where nothing else is said."""
OBSERVATIONS, STARTS = "observations.", "starts."
"""What names of tensors begin with."""


@dataclass(frozen=True)
class Trajectories:
    """T consecutive steps of one or more episodes, one after the other.

    Attributes:
        observations: Arrays [T, ...] by name, as the environment gave them; or rows that stay in their file.
        resets: bool [T], true where an episode begins.
        actions: [T] or [T, A], what a policy chose, or None. Of one that plans ahead [T, H] or [T, H, A], what it
            planned at each step.
        scores: float32 [T, S], what it chose from, or [T, H, S]; or None.
        starts: [number of resets, ...] by name of the state, or of an observation with frames: what each stretch starts
            from. Empty where that is zeros and no earlier frames, as at the beginning of an episode.
    """

    observations: Mapping[str, Rows]
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
            {name: _chosen(rows, index) for name, rows in self.observations.items()},
            resets,
            None if self.actions is None else self.actions[index],
            None if self.scores is None else self.scores[index],
            self.starting(index) if starts is None else dict(starts),
        )

    def replay(self, runner: Runner) -> Trajectories:
        """Return the same observations with what ``runner`` (batch 1) makes of each of them.

        Of a policy that plans ahead that is a whole chunk at every step; ``chunks.acted`` says what is acted of it.
        """
        actions, scores = [], []
        for t, (begins, observations) in enumerate(self.steps()):
            if begins:
                runner.reset(states=self.starting(np.array([t])))
            step = runner.infer(observations)
            actions.append(step.action)
            scores.append(step.scores)
        return replace(self, actions=np.array(actions), scores=np.array(scores))

    def digest(self) -> str:
        """Return the SHA-256 of the observations, of where episodes begin and of what they start from."""
        digest = hashlib.sha256(self.resets.tobytes())
        for arrays in (self.observations, self.starts):
            for name in sorted(arrays):
                digest.update(name.encode())
                for piece in pieces(arrays[name]):
                    digest.update(piece.data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a ``.safetensors.gz`` file; the same trajectories give the same bytes.

        Raises:
            OSError: If the folder cannot be written to; nothing is left behind.
            UsageError: If an array is of a type that safetensors has not.
        """
        tensors: dict[str, Rows] = {OBSERVATIONS + name: rows for name, rows in self.observations.items()}
        tensors |= {STARTS + name: array for name, array in self.starts.items()}
        tensors["resets"] = self.resets
        tensors |= {} if self.actions is None else {"actions": self.actions}
        tensors |= {} if self.scores is None else {"scores": self.scores}
        write_tensors(path, tensors)


def _chosen(rows: Rows, index: np.ndarray) -> Rows:
    return rows[index] if isinstance(rows, np.ndarray) else ChosenRows(rows, index)


def save_steps(path: Path, steps: Iterable[tuple[bool, Mapping[str, np.ndarray]]]) -> None:
    """Write steps as ``Trajectories.steps`` yields them to a file that ``load_trajectories`` reads, one by one.

    Raises:
        RunError: If the file cannot be written; nothing is left behind.
    """
    write_steps(path, steps, OBSERVATIONS)


def load_trajectories(
    path: Path,
    memory: int = MEMORY,
    *,
    most: int | None = None,
    check: Callable[[Mapping[str, Tensor]], None] = lambda tensors: None,
) -> Trajectories:
    """Read what ``Trajectories.save`` wrote, gzipped or not.

    Args:
        path: The file.
        memory: Bytes that may be in memory at once. Where there are more, observations stay in the file.
        most: Bytes that it may hold at all, unpacked.
        check: Called with what the file holds, by name, before anything is unpacked; may refuse it.

    Raises:
        RunError: If the file is missing or damaged, holds too much, or its tensors do not fit each other.
    """
    file = TensorFile(path)
    check(file.tensors)
    misfit = _misfit(file.tensors)
    if most is not None and file.size > most:
        misfit = f"it holds {file.size:,} bytes, where {most:,} are allowed"
    if misfit:
        raise RunError(f"{path}: {misfit}. Make it again.")
    tensors: dict[str, Any] = file.read(memory, OBSERVATIONS)
    observations, starts = (
        {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        for prefix in (OBSERVATIONS, STARTS)
    )
    resets = tensors["resets"].view(np.uint8) != 0  # whatever byte says so
    begun = int(resets.sum())
    for name, array in starts.items():
        if len(array) != begun:
            raise RunError(f"{path}: {STARTS}{name} has {len(array)} rows, and {begun} stretches begin. Make it again.")
    return Trajectories(observations, resets, tensors.get("actions"), tensors.get("scores"), starts)


def _misfit(tensors: Mapping[str, Tensor]) -> str:
    """Return which tensors of a file do not fit each other, or nothing."""
    if "resets" not in tensors:
        return "it has no `resets`, bool [T]"
    resets = tensors["resets"]
    if resets.dtype != np.bool_ or len(resets.shape) != 1 or not resets.size:
        return f"`resets` is {resets}; it must be bool [T], one for each step"
    for name, tensor in tensors.items():
        if name.startswith(STARTS) and not tensor.shape:
            return f"{name} is {tensor}; it must have one row for each stretch"
        if (name.startswith(OBSERVATIONS) or name in ("actions", "scores")) and tensor.shape[:1] != resets.shape:
            return f"{name} is {tensor} and `resets` {resets}; there must be one row a step"
    return ""
