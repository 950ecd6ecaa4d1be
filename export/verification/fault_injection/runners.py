"""Runners that are wrong in one way: what they keep between calls is, and not what the policy computes."""

from __future__ import annotations

import numpy as np

from xfer.runner import Action, Arrays, Runner, Session, Step
from xfer.runner.frames import FrameHistory
from xfer.runner.queue import Queue
from xfer.spec import PolicySpec


class StaleQueue(Runner):
    """What was planned in one episode is acted in the next."""

    def reset(self, mask: np.ndarray | None = None, states: Arrays | None = None) -> None:
        """Reset all but the queue."""
        queue, self._queue = self._queue, None
        super().reset(mask, states)
        self._queue = queue


class StaleFrames(Runner):
    """The frames of one episode are seen in the next."""

    def reset(self, mask: np.ndarray | None = None, states: Arrays | None = None) -> None:
        """Reset all but the frames."""
        history, self._history = self._history, FrameHistory((), self.batch)
        super().reset(mask, states)
        self._history = history


class QueueOffByOne(Runner):
    """Each action is acted a tick too early."""

    def __init__(self, session: Session, spec: PolicySpec, batch: int = 1) -> None:
        super().__init__(session, spec, batch)
        assert self._queue is not None, "this policy does not plan ahead"
        self._queue = _Early(self._queue)


class _Early:
    """A queue that takes a chunk's second action for its first."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.due, self.reset = queue.due, queue.reset

    def next(self, step: Step | None) -> Action:
        if step is not None:
            step = step._replace(action=np.roll(step.action, -1, axis=1), scores=np.roll(step.scores, -1, axis=1))
        return self._queue.next(step)
