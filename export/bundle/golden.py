"""What the live policy did, as a bundle keeps it; and which recorded steps become golden.

Golden are stretches from the beginnings and from late in several episodes. Late ones, since what goes wrong with a
state goes wrong late.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from xfer.errors import BundleError, RunError
from xfer.spec import PolicySpec, TensorSpec
from xfer.trajectories import OBSERVATIONS, STARTS, Trajectories, load_trajectories
from xfer.trajectories.reading import Tensor

MOST_ROWS, LEAST_ROWS = 64, 12
MOST_BYTES = 8_000_000
"""Largest compressed size, unless that would leave fewer than ``LEAST_ROWS``."""
MOST_UNPACKED = 256_000_000
"""Largest size in memory, likewise: who reads a bundle reads golden whole."""
READABLE = 1 << 30
"""Largest size in memory of what is read from a bundle; the C++ runtime has the same limit."""
STRETCH = 6
"""Fewest steps of a stretch, in an episode that is long enough."""
EPISODES = 3
SAMPLED = 8
"""Rows that are compressed to guess what all take."""


def read_reference(path: Path, spec: PolicySpec, *, observations: bool) -> Trajectories:
    """Read what the live policy did.

    Args:
        path: The file.
        spec: The policy's contract.
        observations: Whether what it saw is in the file too.

    Raises:
        BundleError: If the file is damaged, or is not of this contract.
    """
    try:
        found = load_trajectories(path, READABLE, most=READABLE, check=partial(_check, path, spec, observations))
    except RunError as error:
        raise BundleError(f"{path.name} does not fit the bundle: {error}") from error
    if not found.resets[0]:
        raise BundleError(f"{path}: the first of `resets` is false; an episode must begin there. Export again.")
    return found


def _check(path: Path, spec: PolicySpec, observations: bool, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that the contract does not name so."""
    due = {"actions": spec.action.chunk, "scores": spec.chunk_scores}
    if observations:
        due |= {OBSERVATIONS + tensor.name: tensor for tensor in spec.observations}
    if any(name.startswith(STARTS) for name in tensors):
        due |= {STARTS + tensor.name: tensor for tensor in spec.starts}
    for name, wanted in due.items():
        found = tensors.get(name)
        if found is None or not _fits(found, wanted):
            has = "missing" if found is None else f"{found}"
            shape = ", ".join(map(str, ("T", *wanted.shape)))
            raise BundleError(f"{path}: {name} is {has}; the spec says {wanted.dtype} [{shape}]. Export again.")


def _fits(found: Tensor, wanted: TensorSpec) -> bool:
    return found.dtype == np.dtype(wanted.dtype) and len(found.shape) > 0 and found.shape[1:] == wanted.shape


def stretches(recorded: Trajectories, spec: PolicySpec) -> list[slice]:
    """Return where golden's stretches lie in recorded observations, in their order.

    Of the longest episodes first: their first and their last steps, or all of an episode that is shorter.

    Args:
        recorded: Observations [T, ...]; episodes start from zeros.
        spec: The policy's contract, for the size of what they start from.
    """
    rows = _rows(recorded, spec)
    longest = sorted(recorded.episodes(), key=lambda episode: episode.start - episode.stop)
    frames = max(observation.frames for observation in spec.observations)
    steps = max(STRETCH, frames + 1, rows // (2 * min(EPISODES, len(longest), rows // LEAST_ROWS)))
    chosen: list[slice] = []
    for episode in longest:
        left = rows - sum(part.stop - part.start for part in chosen)
        if min(episode.stop - episode.start, 2 * steps) > left:
            continue
        if episode.stop - episode.start <= 2 * steps:
            chosen.append(episode)
        else:
            chosen += [slice(episode.start, episode.start + steps), slice(episode.stop - steps, episode.stop)]
    return sorted(chosen, key=lambda part: part.start)


def _rows(recorded: Trajectories, spec: PolicySpec) -> int:
    """Return how many rows fit into the largest size."""
    sample = np.unique(np.linspace(0, len(recorded) - 1, SAMPLED).astype(int))
    sizes = np.array([[_compressed(recorded.observations[o.name][t]) for t in sample] for o in spec.observations])
    before = sum((o.frames - 1) * int(size.max()) for o, size in zip(spec.observations, sizes, strict=True))
    starts = EPISODES * (before + sum(4 * math.prod(state.shape) for state in spec.states))
    plans = 0 if spec.action.horizon == 1 else 8 * math.prod(spec.chunk_scores.shape)  # actions and scores
    most = (MOST_BYTES - starts) // (int(sizes.sum(axis=0).max()) + plans)
    return max(LEAST_ROWS, min(MOST_ROWS, most, MOST_UNPACKED // (spec.bytes_per_step + plans)))


def _compressed(array: np.ndarray) -> int:
    return len(gzip.compress(array.tobytes(), compresslevel=1))
