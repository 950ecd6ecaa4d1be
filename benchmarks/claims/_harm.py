"""Harm, measured live: what a gate's figure would be on ten times its data, as a multiple of its limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.claims._random_policies import RandomPolicy, walk
from export.bundle.reader import Bundle
from export.verification.parity import ACTION_TOLERANCE, REGRET_TOLERANCE, actions
from export.verification.tolerances import SCORE_TOLERANCE, compare_scores
from xfer.errors import ScoresError
from xfer.runner import Arrays, Runner, Session, Step
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories


@dataclass(frozen=True)
class Walks:
    """Observations of several environments side by side.

    Attributes:
        observations: Arrays [T, B, ...] by name.
        resets: bool [T, B], true where an episode begins.
    """

    observations: dict[str, np.ndarray]
    resets: np.ndarray

    @classmethod
    def of(cls, policy: RandomPolicy, seed: tuple[int, ...], rows: int, steps: int) -> Walks:
        """Return ``steps`` observations in each of ``rows``."""
        walks = [walk(policy, (*seed, row), steps) for row in range(rows)]
        names = walks[0].observations
        stacked = {name: np.stack([one.observations[name][:] for one in walks], axis=1) for name in names}
        return cls(stacked, np.stack([one.resets for one in walks], axis=1))

    def row(self, row: int) -> Walks:
        """Return one of them."""
        observations = {name: array[:, [row]] for name, array in self.observations.items()}
        return Walks(observations, self.resets[:, [row]])

    def __len__(self) -> int:
        return len(self.resets)


def play(session: Session, spec: PolicySpec, walks: Walks) -> list[Trajectories | None]:
    """Return what a session does in all environments at once: one trajectory for each, or None where it fails."""
    rows = walks.resets.shape[1]
    runner = Runner(session, spec, rows)
    steps = []
    try:
        for t in range(len(walks)):
            runner.reset(walks.resets[t])
            steps.append(runner.act({name: array[t] for name, array in walks.observations.items()}))
    except ScoresError:
        return [None] if rows == 1 else [play(session, spec, walks.row(row))[0] for row in range(rows)]
    actions, scores = (np.stack(arrays) for arrays in zip(*steps, strict=True))
    seen = [walks.row(row) for row in range(rows)]
    return [
        Trajectories(
            {name: array[:, 0] for name, array in one.observations.items()},
            one.resets[:, 0],
            actions[:, row],
            scores[:, row],
        )
        for row, one in enumerate(seen)
    ]


class Alone:
    """A session that is given one row at a time."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the session on each row."""
        rows = range(len(next(iter(observations.values()))))
        given = (
            [{name: array[row : row + 1] for name, array in x.items()} for row in rows] for x in (observations, states)
        )
        steps = list(map(self.session.step, *given))
        action, scores = (np.concatenate(parts) for parts in zip(*(step[:2] for step in steps), strict=True))
        return Step(action, scores, {name: np.concatenate([step.states[name] for step in steps]) for name in states})


def harm(
    bundle: Bundle, live: list[Trajectories | None], session: Session, walks: Walks, precision: str
) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest figure of each gate over the environments, as multiples of its limit.

    Args:
        bundle: The right exports.
        live: What the live policy did in each.
        session: The faulty form.
        walks: The observations.
        precision: What it is given out for.
    """
    found = [figures(bundle, *both, precision) for both in zip(live, play(session, bundle.spec, walks), strict=True)]
    return {gate: (min(one[gate] for one in found), max(one[gate] for one in found)) for gate in found[0]}


def figures(bundle: Bundle, live: Trajectories | None, acted: Trajectories | None, precision: str) -> dict[str, float]:
    """Return the figure of each gate, as a multiple of its limit; see ``harm``."""
    spec, spreads = bundle.spec, bundle.spreads()
    assert live is not None
    assert live.scores is not None
    if acted is None:
        return dict.fromkeys(("numbers", "actions") if precision in SCORE_TOLERANCE else ("actions",), np.inf)
    assert acted.scores is not None
    assert acted.actions is not None
    found = {}
    if precision in SCORE_TOLERANCE:
        scores = compare_scores(live.scores, acted.scores, spec, spreads, precision)
        found["numbers"] = np.inf if scores.unmasked.any() else float((scores.difference / scores.allowed).max())
    second = actions(live, acted, spec, precision, spreads)
    limits = REGRET_TOLERANCE if spec.action.kind == "discrete" else ACTION_TOLERANCE
    otherwise = 0.005 if spec.action.kind == "discrete" else 0.02
    found["actions"] = second.regret / limits.get(precision, otherwise)
    return {gate: figure if np.isfinite(figure) else np.inf for gate, figure in found.items()}
