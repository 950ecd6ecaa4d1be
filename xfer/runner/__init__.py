"""Session and Runner: the one interface through which any form of a policy acts. It needs no torch.

A ``Session`` is what a target provides: stateless, states in and states out. A ``Runner`` wraps a session and
keeps states, past frames and planned actions between calls. It is written once, here, so all targets treat episodes
alike.

session.py  what a target provides
frames.py   the last values of observations with ``frames``
queue.py    planned actions: one after the other, or temporal ensembling
checks.py   what must not reach a robot
"""

from __future__ import annotations

import numpy as np

from xfer.errors import ObservationError, ScoresError
from xfer.runner.checks import StepCheck, blame
from xfer.runner.frames import FrameHistory
from xfer.runner.queue import make_queue
from xfer.runner.session import Action, Arrays, Session, Step, in_order
from xfer.spec import PolicySpec

__all__ = ["Action", "Arrays", "Runner", "Session", "Step", "in_order"]


class Runner:
    """Acts step by step, for one environment or a batch of them, and remembers what lies between the steps.

    That is the policy's states; the last values of observations with ``frames``; and, of a policy that plans ahead, the
    actions of a chunk that are not acted yet. In a batch the network runs at each tick at which any row has none left,
    and only those rows take the new chunk.

    Args:
        session: Any target's session.
        spec: The policy's contract.
        batch: Number of environments; each row of the batch is one.

    Attributes:
        inferred: Whether the last call ran the network.

    Example (a bundle is opened in ``export``)::

        runner.reset()
        action, scores = runner.act({"frame": frame})
    """

    def __init__(self, session: Session, spec: PolicySpec, batch: int = 1) -> None:
        self.session, self.spec, self.batch = session, spec, batch
        self.inferred = False
        self._inputs = [(o.name, (batch, *o.shape), np.dtype(o.dtype)) for o in spec.observations]
        self._states = {state.name: state.zeros(batch) for state in spec.states}
        self._history = FrameHistory(spec.observations, batch)
        self._queue = make_queue(spec, batch)
        self._check = StepCheck(spec, batch)

    def reset(self, mask: np.ndarray | None = None, states: Arrays | None = None) -> None:
        """Start a new episode in all rows, or in those where ``mask`` (bool [B]) is true.

        States become zeros, past frames and planned actions are forgotten.

        Args:
            mask: Which rows.
            states: Where to go on from, float32 [number of those rows, ...] by name, instead of zeros; of an
                observation with ``frames`` its values before, [number of those rows, frames - 1, ...] by its name.

        Raises:
            ObservationError: If the mask has another shape.
        """
        if mask is None:
            mask = np.ones(self.batch, bool)
        elif mask.shape != (self.batch,):
            raise ObservationError(f"The reset mask has shape {mask.shape}, expected ({self.batch},).")
        # A copy, since a session may still own the present arrays.
        self._states = {name: state.copy() for name, state in self._states.items()}
        for name, state in self._states.items():
            state[mask] = 0 if not states else states[name]
        self._history.reset(mask, states or {})
        if self._queue is not None:
            self._queue.reset(mask)

    def act(self, observations: Arrays) -> Action:
        """Choose an action.

        Args:
            observations: Arrays by name. With a batch of 1 the batch dimension may be left out, and then the
                action and scores come without it too.

        Returns:
            One action a row, and its scores, in arrays that belong to the caller.

        Raises:
            ObservationError: On a missing name, or a wrong shape or dtype; or if what it was given is not finite, and
                so is what the policy made of it.
            ScoresError: If the scores, an action of the chunk or a next state are not finite, or an action is out of
                its bounds. In both cases states, frames and planned actions stay as they were.
        """
        if self._queue is None:
            return self.infer(observations)
        newest, single = self._batched(observations)
        due = self._queue.due()
        self.inferred = bool(due.any())
        planned = self._infer(self._fed(newest), due) if self.inferred else None
        states = self._states if planned is None else planned.states
        return self._keep(newest, states, self._queue.next(planned), single)

    def infer(self, observations: Arrays) -> Action:
        """Run the network, whatever is planned, and return all that it gives: the whole chunk of each row.

        Planned actions are neither used nor replaced; frames and states go on as in ``act``. Of a policy that does not
        plan ahead it is the same as ``act``.

        Args:
            observations: As ``act`` takes them.

        Returns:
            Actions [B, H] or [B, H, A] and their scores [B, H, S], as ``act`` returns them.

        Raises:
            ObservationError: As ``act``.
            ScoresError: As ``act``.
        """
        newest, single = self._batched(observations)
        self.inferred = True
        step = self._infer(self._fed(newest))
        return self._keep(newest, step.states, Action(step.action, step.scores), single)

    def _batched(self, observations: Arrays) -> tuple[dict[str, np.ndarray], bool]:
        """Return checked observations [B, *shape], and whether the batch dimension was left out."""
        batched = {}
        single = False
        for name, shape, dtype in self._inputs:
            array = observations.get(name)
            if array is None:
                raise ObservationError(f"Observation '{name}' is missing; got {sorted(observations)}.")
            if array.shape == shape[1:] and self.batch == 1:
                single, array = True, array[None]
            if array.shape != shape or array.dtype != dtype:
                raise ObservationError(
                    f"Observation '{name}' is {array.dtype} {list(array.shape)}, expected {dtype} {list(shape)}."
                )
            batched[name] = in_order(array)  # once, and held until the session has returned
        return batched, single

    def _fed(self, newest: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the network takes: the frames before as well, where it sees several."""
        return self._history.stacked(newest) if self._history else newest

    def _infer(self, fed: dict[str, np.ndarray], due: np.ndarray | None = None) -> Step:
        """Run the network; refuse what it gives if it must not be used in the rows that are due, by default all."""
        step = self.session.step(fed, self._states)
        try:
            self._check(step, due)
        except ScoresError as error:
            blame({f"Observation '{name}'": array for name, array in fed.items()}, due, error)
            blame({f"State '{name}'": array for name, array in self._states.items()}, due, error)
            raise
        return step

    def _keep(self, newest: Arrays, states: dict[str, np.ndarray], acted: Action, single: bool) -> Action:
        """Keep what the next call starts from, and return what was acted."""
        self._states = states
        if self._history:
            self._history.push(newest)
        return Action(acted.action[0], acted.scores[0]) if single else acted
