"""Random faults of random strength in what a right session answers and remembers."""

from __future__ import annotations

import numpy as np

from benchmarks.claims._planted import Altered, Planted, Right, answer, bent, strength
from benchmarks.claims._random_policies import FORBIDDEN, steps_of
from xfer.runner import Arrays, Session, Step

LATE = (5, 200)
"""From which step of an episode on a late fault acts."""


# What the policy sees.


class Clipping:
    """A session that sees no values beyond a limit."""

    def __init__(self, session: Session, limit: float) -> None:
        self.session, self.limit = session, limit

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Clip, and run the right session."""
        seen = {name: self._clipped(array) for name, array in observations.items()}
        return self.session.step(seen, states)

    def _clipped(self, array: np.ndarray) -> np.ndarray:
        if array.dtype == np.uint8:
            return array.clip(int(max(128 - 50 * self.limit, 0)), int(min(128 + 50 * self.limit, 255)))
        return array.clip(-self.limit, self.limit)


def observation_clipped(right: Right, rng: np.random.Generator) -> Planted:
    """Observations are clipped, as a normalizer does with rare ones."""
    limit = strength(rng, -0.5, 1.3)
    return Planted(Clipping(right.session, limit), f"at {limit:.2g} of the usual spread")


# What becomes of the scores.


def sign_at_late_steps(right: Right, rng: np.random.Generator) -> Planted:
    """Late in an episode one score, or all of them, have the other sign."""
    after, width = int(rng.integers(*LATE)), len(right.spec.action.elements)
    flipped = np.arange(width) == rng.integers(width) if rng.random() < 0.5 else np.ones(width, bool)

    def bend(scores: np.ndarray, since: np.ndarray) -> np.ndarray:
        late = (since >= after)[:, None] & flipped & (scores > FORBIDDEN / 2)
        return np.where(late, -scores, scores)

    return bent(right, rng, bend, f"scores {np.flatnonzero(flipped).tolist()} from step {after} on")


def actions_swapped(right: Right, rng: np.random.Generator) -> Planted:
    """Two actions change places, from some step on."""
    one, other = rng.choice(len(right.spec.action.elements), 2, replace=False)
    after = int(rng.integers(*LATE)) if rng.random() < 0.5 else 0

    def bend(scores: np.ndarray, since: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(since >= after)
        scores[np.ix_(rows, [one, other])] = scores[np.ix_(rows, [other, one])]
        return scores

    return bent(right, rng, bend, f"{one} and {other} from step {after} on")


def offset(right: Right, rng: np.random.Generator) -> Planted:
    """One score is a little too high or too low."""
    element, share = int(rng.integers(len(right.scores))), strength(rng, -5, 0.5) * rng.choice([-1, 1])

    def bend(scores: np.ndarray, since: np.ndarray) -> np.ndarray:
        scores[:, element] += share * right.scores[element]
        return scores

    return bent(right, rng, bend, f"score {element} by {share:.2g} of its spread")


def noise(right: Right, rng: np.random.Generator) -> Planted:
    """One score is noisy."""
    element, share = int(rng.integers(len(right.scores))), strength(rng, -5, 0.5)
    drawn = np.random.default_rng(int(rng.integers(2**31)))

    def bend(scores: np.ndarray, since: np.ndarray) -> np.ndarray:
        scores[:, element] += drawn.normal(scale=share * right.scores[element], size=len(scores))
        return scores

    return bent(right, rng, bend, f"score {element}, {share:.2g} of its spread")


def rows_mixed(right: Right, rng: np.random.Generator) -> Planted:
    """In a batch, each row gets a share of its neighbor's answer and state."""
    share = strength(rng, -3, 0)

    def change(observations: Arrays, states: Arrays, step: Step) -> Step:
        if len(step.scores) == 1:
            return step
        scores, *after = (
            ((1 - share) * own + share * np.roll(own, 1, axis=0)).astype(np.float32)
            for own in (step.scores, *step.states.values())
        )
        return Step(answer(scores, right.spec), scores, dict(zip(step.states, after, strict=True)))

    return Planted(Altered(right.session, change), f"{share:.2g} of the neighbor")


# What becomes of the action.


def bound_moved(right: Right, rng: np.random.Generator) -> Planted:
    """One element of a continuous action is clipped too early."""
    element, share = int(rng.integers(len(right.scores))), strength(rng, -2, 0)
    moved = share * (right.highest - right.lowest)[element]
    upper = bool(rng.random() < 0.5)

    def change(observations: Arrays, states: Arrays, step: Step) -> Step:
        action = step.action.copy()
        limits = (None, right.highest[element] - moved) if upper else (right.lowest[element] + moved, None)
        action[:, element] = action[:, element].clip(*limits)
        return step._replace(action=action)

    words = f"{'upper' if upper else 'lower'} bound of {element} by {share:.2g} of what it reaches"
    return Planted(Altered(right.session, change), words)


def one_step_late(right: Right, rng: np.random.Generator) -> Planted:
    """From some step on the action is that of the step before."""
    after, last = int(rng.integers(*LATE)), np.zeros(0)

    def change(observations: Arrays, states: Arrays, step: Step) -> Step:
        nonlocal last
        before, last = last, step.action
        if before.shape != step.action.shape:
            return step
        late = steps_of(observations) >= after
        return step._replace(action=np.where(late if step.action.ndim == 1 else late[:, None], before, step.action))

    return Planted(Altered(right.session, change), f"from step {after} on")


def not_a_number(right: Right, rng: np.random.Generator) -> Planted:
    """From some step on an action, or a next state, is none."""
    after = int(rng.integers(*LATE))
    in_state = bool(right.spec.states) and (right.spec.action.kind == "discrete" or rng.random() < 0.5)

    def change(observations: Arrays, states: Arrays, step: Step) -> Step:
        late = steps_of(observations) >= after
        if in_state:
            broken = {name: np.where(late[:, None], np.float32("nan"), state) for name, state in step.states.items()}
            return step._replace(states=broken)
        if step.action.ndim == 1:
            return step._replace(action=np.where(late, len(right.scores), step.action))
        return step._replace(action=np.where(late[:, None], np.float32("nan"), step.action))

    return Planted(Altered(right.session, change), f"{'state' if in_state else 'action'} from step {after} on")


# What becomes of the state.


class KeptOverReset:
    """A session that begins an episode with a share of the state in which its row ended the last one."""

    def __init__(self, session: Session, share: float) -> None:
        self.session, self.share = session, share
        self.last: dict[str, np.ndarray] = {}

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the right session on the states, or on what is left of former ones where they are zero."""
        given = dict(states)
        for name, state in states.items():
            last = self.last.get(name)
            if last is not None and last.shape == state.shape:
                given[name] = np.where((state == 0).all(axis=1, keepdims=True), np.float32(self.share) * last, state)
        step = self.session.step(observations, given)
        self.last = step.states
        return step


def state_kept(right: Right, rng: np.random.Generator) -> Planted:
    """An episode begins with what is left of the last one."""
    share = strength(rng, -3, 0)
    return Planted(KeptOverReset(right.session, share), f"{share:.2g} of it")


def state_dropped(right: Right, rng: np.random.Generator) -> Planted:
    """Every so many steps a share of the state is lost."""
    every, share = int(rng.integers(1, 60)), strength(rng, -4, 0)

    def change(observations: Arrays, states: Arrays, step: Step) -> Step:
        lost = (steps_of(observations) % every == every - 1)[:, None]
        after = {name: np.where(lost, np.float32(1 - share) * state, state) for name, state in step.states.items()}
        return step._replace(states=after)

    return Planted(Altered(right.session, change), f"{share:.2g} of it every {every} steps")


def state_frozen(right: Right, rng: np.random.Generator) -> Planted:
    """From some step on a share of the state is not updated."""
    after, share = int(rng.integers(*LATE)), np.float32(strength(rng, -4, 0))

    def change(observations: Arrays, states: Arrays, step: Step) -> Step:
        late = (steps_of(observations) >= after)[:, None]
        mixed = {
            name: np.where(late, share * states[name] + (1 - share) * state, state)
            for name, state in step.states.items()
        }
        return step._replace(states=mixed)

    return Planted(Altered(right.session, change), f"{share:.2g} of it from step {after} on")
