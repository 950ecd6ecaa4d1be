"""Are two answers of a policy the same, but for rounding?"""

from __future__ import annotations

import numpy as np

from export.bundle.manifest import Spreads
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories
from xfer.trajectories.chunks import unrolled

SHARE, ROUNDING = 0.001, 1e-5
"""Two answers are the same if they differ by at most this share of their spread, and of their own size."""


def difference(
    wanted: Trajectories, found: Trajectories, spec: PolicySpec, spreads: Spreads, share: float = SHARE
) -> tuple[int, str] | None:
    """Return the first step at which actions or scores are not the same, and the figures; None if there is none.

    A discrete action may be another where its score is the same.

    Args:
        wanted: Actions and scores; what was planned at each step, or what was acted.
        found: Others, of as many steps or fewer; perhaps without scores.
        spec: The policy's contract.
        spreads: In what differences are counted.
        share: The share of the spread by which both may differ.
    """
    steps = len(wanted.resets)
    wanted, found = unrolled(wanted, spec), unrolled(found, spec)
    assert wanted.scores is not None
    assert wanted.actions is not None
    assert found.actions is not None
    horizon = len(wanted.scores) // steps
    rows = len(found.actions)
    allowed = share * np.array(spreads.scores) + ROUNDING * np.abs(wanted.scores[:rows]) + 1e-6
    bad = np.zeros(rows, bool)
    if found.scores is not None:
        bad |= ~(np.abs(found.scores - wanted.scores[:rows]) <= allowed).all(axis=1)
    if spec.action.kind == "discrete":
        each, mine = np.arange(rows), wanted.actions[:rows].astype(int)
        theirs = found.actions.astype(int).clip(0, len(spec.action.elements) - 1)
        gap = np.abs(wanted.scores[each, mine] - wanted.scores[each, theirs])
        tie = (theirs == found.actions) & (gap <= 2 * np.maximum(allowed[each, mine], allowed[each, theirs]))
        bad |= ~((theirs == mine) | tie) | (theirs != found.actions)
    else:
        allowed = share * np.array(spreads.actions) + ROUNDING * np.abs(wanted.actions[:rows]) + 1e-6
        bad |= ~(np.abs(found.actions - wanted.actions[:rows]) <= allowed).all(axis=1)
    if not bad.any():
        return None
    t = int(bad.argmax())
    said = f"action {_shown(found.actions[t])} instead of {_shown(wanted.actions[t])}"
    if found.scores is not None:
        said += f", score off by {np.abs(found.scores[t] - wanted.scores[t]).max():.3g}"
    return t // horizon, said + (f" in action {t % horizon} of its chunk" if horizon > 1 else "")


def _shown(action: np.ndarray) -> str:
    values = [f"{value:.4g}" for value in np.atleast_1d(action).tolist()]
    return values[0] if len(values) == 1 else f"[{', '.join(values)}]"
