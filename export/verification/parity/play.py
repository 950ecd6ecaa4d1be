"""Golden, played again: inference by inference, and through the queue of a policy that plans ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from xfer.runner import Action, Runner, Session
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories
from xfer.trajectories.chunks import acted

MakeRunner = Callable[[Session, PolicySpec, int], Runner]
"""``Runner``, or one with a fault in it."""


def play(
    session: Session, spec: PolicySpec, golden: Trajectories, batch: int, make: MakeRunner = Runner
) -> list[Trajectories]:
    """Return golden with what the session infers at every step, one for each row of the batch.

    Every row plays all episodes, but row i begins with episode i; so rows are at different steps and are reset at
    different times, and a session that mixes up rows or states cannot get all of them right.
    """
    orders = [np.concatenate([np.arange(part.start, part.stop) for part in order]) for order in _orders(golden, batch)]
    begins = [golden.resets[order] for order in orders]
    made = _play(make(session, spec, batch), golden, orders, begins, infer=True)
    return [replace(_in_place(one, order), resets=golden.resets) for one, order in zip(made, orders, strict=True)]


def play_queue(
    session: Session, spec: PolicySpec, golden: Trajectories, batch: int, make: MakeRunner = Runner
) -> list[tuple[np.ndarray, Trajectories, Trajectories]]:
    """Act golden in mixed rows, as a robot would: an inference where nothing is planned, and then what is.

    Each stretch begins right after a tick of another moment, with its plan and its frames still there; so a runner that
    does not forget them cannot get it right.

    Returns:
        For each row of the batch: the golden step that is shown at each tick, what must be acted there, and what was.
    """
    orders, begins, checked = [], [], []
    for stretches in _orders(golden, batch):
        parts = [queue_steps(stretch, spec) for stretch in stretches]
        orders.append(np.concatenate([[part[-1], *part] for part in parts]))
        begins.append(np.concatenate([[False, True, *[False] * (len(part) - 1)] for part in parts]))
        checked.append(np.concatenate([[False, *[True] * len(part)] for part in parts]))
    found = _play(make(session, spec, batch), golden, orders, begins, infer=False)
    result = []
    assert golden.actions is not None
    assert golden.scores is not None
    for order, begun, kept, one in zip(orders, begins, checked, found, strict=True):
        shown = order[kept]
        due = acted(Trajectories({}, begun[kept], golden.actions[shown], golden.scores[shown]), spec)
        assert one.actions is not None
        assert one.scores is not None
        result.append((shown, due, Trajectories({}, begun[kept], one.actions[kept], one.scores[kept])))
    return result


def queue_steps(part: slice, spec: PolicySpec) -> np.ndarray:
    """Return which golden steps are shown, so that a queue runs empty: one that outlasts a stretch begins standing.

    Inferences fall only on steps that are shown with the very frames of before them.

    Args:
        part: A stretch.
        spec: The policy's contract.
    """
    steps, action = np.arange(part.start, part.stop), spec.action
    frames = max(observation.frames for observation in spec.observations)
    ensembled = action.ensemble is not None
    standing = (action.horizon if ensembled else action.execute + 2) - len(steps)
    if standing <= 0 or spec.states or len(steps) <= frames or (ensembled and frames > 1):
        return steps
    return np.concatenate([np.full(standing, steps[0]), steps])


def _orders(golden: Trajectories, batch: int) -> list[list[slice]]:
    """Return golden's stretches in another order for each row of a batch."""
    parts = golden.episodes()
    return [parts[row % len(parts) :] + parts[: row % len(parts)] for row in range(batch)]


def _play(
    runner: Runner, golden: Trajectories, orders: list[np.ndarray], begins: list[np.ndarray], *, infer: bool
) -> list[Trajectories]:
    """Return actions and scores of each row, tick by tick.

    Args:
        runner: Of as many rows.
        golden: What is shown.
        orders: The golden step of each tick, for each row.
        begins: Where a stretch begins, bool, likewise.
        infer: Whether the network is run at every tick, for all that it plans.
    """
    stretch = np.cumsum(golden.resets) - 1
    made: list[Action] = []
    for t in range(len(orders[0])):
        now, begun = np.array([order[t] for order in orders]), np.array([begin[t] for begin in begins])
        runner.reset(begun, {name: array[stretch[now[begun]]] for name, array in golden.starts.items()})
        observations = {name: array[now] for name, array in golden.observations.items()}
        made.append(runner.infer(observations) if infer else runner.act(observations))
    actions, scores = (np.stack(arrays) for arrays in zip(*made, strict=True))
    return [Trajectories({}, begin, actions[:, row], scores[:, row]) for row, begin in enumerate(begins)]


def _in_place(made: Trajectories, order: np.ndarray) -> Trajectories:
    """Return what was made in some order, in golden's."""
    assert made.actions is not None
    assert made.scores is not None
    back = np.argsort(order)
    return replace(made, actions=made.actions[back], scores=made.scores[back])
