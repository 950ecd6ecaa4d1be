"""What a random fault is planted in, and what planting gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.claims._random_policies import steps_of
from xfer.models.contract import to_action
from xfer.runner import Arrays, Session, Step
from xfer.spec import PolicySpec


@dataclass(frozen=True)
class Right:
    """A right export, and how far apart its answers lie.

    Attributes:
        spec: The contract.
        session: The export, opened.
        graph: The same as an ONNX file, or empty where it is none.
        scores: Spread of each score, [A].
        lowest: Smallest action that the policy took, [A] for a continuous one.
        highest: Largest.
        stack: Closes what is opened.
    """

    spec: PolicySpec
    session: Session
    graph: bytes
    scores: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    stack: ExitStack


@dataclass(frozen=True)
class Planted:
    """A session with a fault, and how strong it is in words."""

    session: Session
    strength: str


Change = Callable[[Arrays, Arrays, Step], Step]
"""What becomes of an answer: takes observations, states and the right step."""


class Altered:
    """A session whose answers are changed."""

    def __init__(self, session: Session, change: Change) -> None:
        self.session, self.change = session, change

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the right session, and change what it gives."""
        return self.change(observations, states, self.session.step(observations, states))


def strength(rng: np.random.Generator, weakest: float, strongest: float) -> float:
    """Return a random strength between 10 ** weakest and 10 ** strongest."""
    return float(10 ** rng.uniform(weakest, strongest))


def answer(scores: np.ndarray, spec: PolicySpec) -> np.ndarray:
    """Return the action of scores."""
    return to_action(torch.from_numpy(scores), spec).numpy()


def bent(
    right: Right, rng: np.random.Generator, bend: Callable[[np.ndarray, np.ndarray], np.ndarray], words: str
) -> Planted:
    """Return a session whose scores are changed and its action with them, or its action alone.

    Args:
        right: The right export.
        rng: Draws which of both.
        bend: Given scores [B, A] and the step of each row's episode, returns other scores.
        words: How strong that is.
    """
    action_only = bool(rng.random() < 0.3)

    def change(observations: Arrays, states: Arrays, step: Step) -> Step:
        scores = bend(step.scores.copy(), steps_of(observations)).astype(np.float32)
        return Step(answer(scores, right.spec), step.scores if action_only else scores, step.states)

    return Planted(Altered(right.session, change), words + (", action only" if action_only else ""))
