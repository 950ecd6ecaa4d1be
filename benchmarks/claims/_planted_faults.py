"""The kinds of faults that are planted into right exports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.claims import _faulty_sessions as sessions
from benchmarks.claims import _faulty_weights as weights
from benchmarks.claims._planted import Planted, Right
from xfer.spec import PolicySpec


@dataclass(frozen=True)
class Fault:
    """One kind of fault: what plants it, and which policies can have it."""

    plant: Callable[[Right, np.random.Generator], Planted]
    fits: Callable[[PolicySpec], bool] = lambda spec: True


def _has_state(spec: PolicySpec) -> bool:
    return bool(spec.states)


def _is_continuous(spec: PolicySpec) -> bool:
    return spec.action.kind == "continuous"


FAULTS = {
    "weight scaled": Fault(weights.weight_scaled),
    "rows of a weight swapped": Fault(weights.rows_swapped),
    "layer in less precision": Fault(weights.layer_in_less_precision),
    "observation clipped": Fault(sessions.observation_clipped),
    "two actions swapped": Fault(sessions.actions_swapped),
    "sign flipped at late steps": Fault(sessions.sign_at_late_steps),
    "constant offset on one score": Fault(sessions.offset),
    "noise in one score": Fault(sessions.noise),
    "bound moved": Fault(sessions.bound_moved, _is_continuous),
    "one step late": Fault(sessions.one_step_late),
    "not a number": Fault(sessions.not_a_number),
    "batch rows mixed": Fault(sessions.rows_mixed),
    "state kept over a reset": Fault(sessions.state_kept, _has_state),
    "state dropped": Fault(sessions.state_dropped, _has_state),
    "state frozen": Fault(sessions.state_frozen, _has_state),
}
