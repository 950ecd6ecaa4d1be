"""A policy's live module at work on recorded observations: row by row, and in batches of different episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from export.libraries.causes import reason
from xfer.errors import FidelityError, ObservationError, ScoresError
from xfer.runner import Arrays, Runner, Session, Step
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

ROWS = 8
"""Largest batch in which episodes are mixed."""
STEPS_APART = 16
"""How many steps a row of a batch is behind the one before it, where episodes are long enough."""

Recordings = Mapping[str, Trajectories]
"""Recorded observations by name: calibration and held-out."""


def refused(cause: str) -> FidelityError:
    """Return the error that says why a policy cannot be exported."""
    return FidelityError(f"The policy cannot be exported unchanged: {cause}")


class LiveSession:
    """The live module itself. Not in inference mode, so that what it keeps can still be exported afterwards.

    Args:
        module: The module, in eval mode.
        spec: Its contract.

    Attributes:
        inputs: What the module was last called with.
    """

    def __init__(self, module: nn.Module, spec: PolicySpec) -> None:
        self.module, self._spec = module, spec
        self.inputs: list[Tensor] = []

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the module once, on copies of its inputs.

        Raises:
            FidelityError: If it fails, or writes into an observation.
        """
        given = {
            tensor.name: torch.from_numpy(np.array(observations[tensor.name])) for tensor in self._spec.observations
        }
        kept = [torch.from_numpy(np.array(states[tensor.name])) for tensor in self._spec.states]
        self.inputs = [*given.values(), *kept]
        try:
            with torch.no_grad():
                action, scores, *after = (out.cpu().numpy() for out in self.module(*self.inputs))
        except (Exception, SystemExit) as error:  # whatever somebody's module raises
            raise refused(f"it fails on a recorded observation ({reason(error)}).") from error
        for name, tensor in given.items():
            if not np.array_equal(
                tensor.numpy().view(np.uint8), np.ascontiguousarray(observations[name]).view(np.uint8)
            ):
                raise refused(f"it writes into its observation '{name}'. Let it work on a copy: {name}.clone().")
        return Step(
            action, scores, {tensor.name: array for tensor, array in zip(self._spec.states, after, strict=True)}
        )


class Moment(NamedTuple):
    """One step of one recording.

    Attributes:
        recording: Its name.
        t: Which row.
        observations: What the network was given, with a batch dimension.
        states: What the step started from.
        made: What the session gave.
    """

    recording: str
    t: int
    observations: Arrays
    states: Arrays
    made: Step


class _Last:
    """A session whose last step can be looked at."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.observations: Arrays
        self.states: Arrays
        self.made: Step

    def step(self, observations: Arrays, states: Arrays) -> Step:
        self.observations, self.states = observations, states
        self.made = self._session.step(observations, states)
        return self.made


def alone(session: Session, spec: PolicySpec, recordings: Recordings) -> Iterator[Moment]:
    """Let a session act on every row by itself, episode by episode through a ``Runner``, and yield each step."""
    last = _Last(session)
    for name, recorded in recordings.items():
        runner = Runner(last, spec)
        for t, (begins, observations) in enumerate(recorded.steps()):
            if begins:
                runner.reset(states=recorded.starting(np.array([t])))
            try:
                runner.infer(observations)
            except (ObservationError, ScoresError) as error:
                raise type(error)(f"At {place(recordings, name, t)}: {error}") from error
            yield Moment(name, t, last.observations, last.states, last.made)


def in_batches(session: Session, spec: PolicySpec, recordings: Recordings) -> dict[str, Trajectories]:
    """Let a session act on the same rows in a batch, in which every row is in another episode.

    Returns:
        The recordings without observations, with the session's actions and scores; of a policy that plans ahead, with
        what it plans at every step.
    """
    episodes = [(name, part) for name, recorded in recordings.items() for part in recorded.episodes()]
    steps = [part.stop - part.start for _, part in episodes]
    # As many rows as are busy to the end, but at least two.
    rows = min(ROWS, len(episodes), max(2, -(-sum(steps) // max(steps))))
    queues: list[list[tuple[str, int]]] = [[] for _ in range(rows)]
    for name, part in sorted(episodes, key=lambda episode: episode[1].start - episode[1].stop):
        min(queues, key=len).extend((name, t) for t in range(part.start, part.stop))
    runner = Runner(session, spec, len(queues))
    actions = {
        name: np.zeros((len(recorded), *spec.action.chunk.shape), spec.action.chunk.dtype)
        for name, recorded in recordings.items()
    }
    scores = {
        name: np.zeros((len(recorded), *spec.chunk_scores.shape), np.float32) for name, recorded in recordings.items()
    }
    # Rows are some steps apart, so that not all are at the same step of their episodes. One that waits shows its first
    # observation, one that is through its last.
    apart = min(STEPS_APART, max(1, max(steps) // rows))
    for step in range(max(row * apart + len(queue) for row, queue in enumerate(queues))):
        at = [step - row * apart for row in range(len(queues))]
        now = [queue[min(max(i, 0), len(queue) - 1)] for queue, i in zip(queues, at, strict=True)]
        begins = np.array([bool(recordings[name].resets[t]) for name, t in now])
        starts = [recordings[name].starting(np.array([t])) for name, t in now]
        starts = [start for start, begun in zip(starts, begins, strict=True) if begun]
        runner.reset(begins, {key: np.concatenate([start[key] for start in starts]) for key in (starts or [{}])[0]})
        acted = runner.infer(
            {
                tensor.name: np.stack([recordings[name].observations[tensor.name][t] for name, t in now])
                for tensor in spec.observations
            }
        )
        for row, (name, t) in enumerate(now):
            if 0 <= at[row] < len(queues[row]):
                actions[name][t], scores[name][t] = acted.action[row], acted.scores[row]
    return {name: Trajectories({}, one.resets, actions[name], scores[name]) for name, one in recordings.items()}


def place(recordings: Recordings, name: str, t: int) -> str:
    """Return where a row is, in words: its step counted from 0, its episode from 1."""
    begun = np.flatnonzero(recordings[name].resets[: t + 1])
    step = t - int(begun[-1]) if len(begun) else t
    return f"step {step} of episode {max(len(begun), 1)} of the {name} observations"
