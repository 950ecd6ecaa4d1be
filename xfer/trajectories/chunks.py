"""What a policy that plans ahead, or sees several frames, did at each step of recorded trajectories.

Its recorded actions and scores are those of an inference at *every* step: [T, H, ...], whatever was queued. What a
runner acts follows from them, and so does what any other queue acts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xfer.spec import PolicySpec, TensorSpec
from xfer.trajectories import Trajectories


def unrolled(recorded: Trajectories, spec: PolicySpec) -> Trajectories:
    """Return actions [T * H, ...] and scores [T * H, S]: each action of a chunk as a row of its own.

    Those of a policy that does not plan ahead stay as they are, and so do actions that were acted, one a step.

    Args:
        recorded: Actions [T, H, ...] and scores [T, H, S], or only one of them.
        spec: The policy's contract.
    """
    ticks = [(recorded.actions, spec.action.tensor), (recorded.scores, spec.scores)]
    actions, scores = (None if array is None else array.reshape(-1, *one.shape) for array, one in ticks)
    return Trajectories({}, recorded.resets, actions, scores)


def acted(recorded: Trajectories, spec: PolicySpec) -> Trajectories:
    """Return the actions [T, ...] and scores [T, S] that a runner acts, which begins each episode without a plan.

    Args:
        recorded: Actions [T, H, ...] and scores [T, H, S] of an inference at every step.
        spec: The policy's contract.
    """
    if spec.action.horizon == 1:
        return recorded
    steps = np.concatenate([np.arange(part.stop - part.start) for part in recorded.episodes()])

    def of(chunks: np.ndarray | None) -> np.ndarray | None:
        if chunks is None or spec.action.ensemble is not None:
            return None if chunks is None else _ensembled(chunks, steps, spec)
        since = steps % spec.action.execute  # the last inference
        found: np.ndarray = chunks[np.arange(len(steps)) - since, since]
        return found

    return replace(recorded, actions=of(recorded.actions), scores=of(recorded.scores))


def _ensembled(chunks: np.ndarray, steps: np.ndarray, spec: PolicySpec) -> np.ndarray:
    """Return the weighted mean of all that was planned for each step; see ``ActionSpec.ensemble``.

    Args:
        chunks: What each step planned, float32 [T, H, ...].
        steps: The number of each in its episode, int [T].
        spec: The policy's contract.
    """
    assert spec.action.ensemble is not None
    total, weights = np.zeros_like(chunks[:, 0], float), np.zeros((len(chunks), *(1,) * (chunks.ndim - 2)))
    oldest = np.minimum(steps, spec.action.horizon - 1)
    for age in range(spec.action.horizon):
        known = np.flatnonzero(age <= oldest)
        weight = np.exp(-spec.action.ensemble * (oldest[known] - age)).reshape(-1, *weights.shape[1:])
        total[known] += weight * chunks[known - age, age]
        weights[known] += weight
    return (total / weights).astype(np.float32)


def stacked(recorded: Trajectories, tensor: TensorSpec, rows: np.ndarray) -> np.ndarray:
    """Return an observation of some steps as the network takes it, with the frames before it where it has several.

    Args:
        recorded: Whole episodes.
        tensor: The observation.
        rows: Which steps, int [B].

    Returns:
        [B, *shape], or [B, frames, *shape], in which the first frame of an episode stands for those before it.
    """
    array = recorded.observations[tensor.name]
    if tensor.frames == 1:
        return np.asarray(array[rows])
    begun = np.flatnonzero(recorded.resets)
    first = begun[np.searchsorted(begun, rows, side="right") - 1]
    before = np.arange(tensor.frames - 1, -1, -1)
    return np.stack([array[np.maximum(rows - age, first)] for age in before], axis=1)
