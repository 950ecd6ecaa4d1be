"""What was planned and not acted yet, row by row: chunks that are acted one after the other, or temporal ensembling."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from xfer.runner.session import Action, Step
from xfer.spec import PolicySpec


class Queue(Protocol):
    """A rule by which one action a tick is made of chunks."""

    def due(self) -> np.ndarray:
        """Return in which rows nothing is left to act, so that an inference must come first: bool [B]."""

    def reset(self, mask: np.ndarray) -> None:
        """Forget the plans of some rows, bool [B]."""

    def next(self, step: Step | None) -> Action:
        """Take the next action of each row off.

        Args:
            step: The present inference, with chunks; rows that are not due leave theirs alone. None if no row is due.

        Returns:
            Actions [B] or [B, A] and their scores [B, S].
        """


class ActionQueue:
    """The first ``execute`` actions of a chunk, one after the other.

    Args:
        spec: The policy's contract.
        batch: Number of rows.
    """

    def __init__(self, spec: PolicySpec, batch: int) -> None:
        action, self._execute = spec.action.tensor, spec.action.execute
        self._actions = np.zeros((batch, self._execute, *action.shape), action.dtype)
        self._scores = np.zeros((batch, self._execute, *spec.scores.shape), np.float32)
        self._left = np.zeros(batch, int)

    def due(self) -> np.ndarray:
        """Return in which rows nothing is left."""
        due: np.ndarray = self._left == 0
        return due

    def reset(self, mask: np.ndarray) -> None:
        """Empty some rows."""
        self._left[mask] = 0

    def next(self, step: Step | None) -> Action:
        """Fill the rows that are due from their chunks, and take the next action of each row off."""
        if step is not None:
            due = self.due()
            self._actions[due] = step.action[due, : self._execute]
            self._scores[due] = step.scores[due, : self._execute]
            self._left[due] = self._execute
        rows, at = np.arange(len(self._left)), self._execute - self._left
        self._left -= 1
        return Action(self._actions[rows, at], self._scores[rows, at])


class TemporalEnsemble:
    """The mean of all that was planned for a tick, weighted by exp(-m i), i = 0 being the oldest plan.

    Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", algorithm 2. The mean is
    brought up to date with each chunk, as LeRobot's ``ACTTemporalEnsembler`` does, so old chunks need not be kept.

    Args:
        spec: The policy's contract.
        batch: Number of rows.
    """

    def __init__(self, spec: PolicySpec, batch: int) -> None:
        horizon = spec.action.horizon
        assert spec.action.ensemble is not None, "this policy names no ensembling"
        self._weights = np.exp(-spec.action.ensemble * np.arange(horizon))
        self._sums = np.concatenate([[0.0], np.cumsum(self._weights)])
        self._most = np.arange(horizon - 1, -1, -1)  # plans before this one for this tick and the next ones, at most
        # float64: sums of float32 actions would leave their range.
        self._means = np.zeros((batch, *spec.action.chunk.shape)), np.zeros((batch, *spec.chunk_scores.shape))
        self._ticks = np.zeros(batch, int)

    def due(self) -> np.ndarray:
        """Return that each row needs an inference at each tick."""
        return np.ones(len(self._ticks), bool)

    def reset(self, mask: np.ndarray) -> None:
        """Begin anew in some rows."""
        self._ticks[mask] = 0

    def next(self, step: Step | None) -> Action:
        """Enter the chunks into the means, and take the first of each row off."""
        assert step is not None, "each tick has an inference"
        plans = np.minimum(self._ticks[:, None], self._most)
        before, weight, after = (x[..., None] for x in (self._sums[plans], self._weights[plans], self._sums[plans + 1]))
        for means, chunks in zip(self._means, (step.action, step.scores), strict=True):
            means *= before
            means += chunks * weight
            means /= after
        action, scores = (means[:, 0].astype(np.float32) for means in self._means)
        for means in self._means:
            means[:, :-1] = means[:, 1:]
            means[:, -1] = 0
        self._ticks += 1
        return Action(action, scores)


def make_queue(spec: PolicySpec, batch: int) -> Queue | None:
    """Return the queue of a policy that plans ahead, or None of one that gives one action at a time."""
    if spec.action.horizon == 1:
        return None
    return ActionQueue(spec, batch) if spec.action.ensemble is None else TemporalEnsemble(spec, batch)
