"""The third gate where there is no environment: does a variant act as the reference does in recorded episodes?

The actions gate looks at single observations, and its limit is one for their mean, as it was seen. Of episodes that
were not recorded that says nothing yet: observations of one episode resemble each other, so a thousand of them from one
long episode are not a thousand, and a variant that goes wrong in one scene of twenty looks perfect in the others. So
the unit here is the episode, as it is the pair of episodes in the reward gate. Its loss is the mean action loss of its
steps: regret, or difference as a share of the scale, each as the actions gate counts it, at most 1.

The limit is 2 %, the margin of the reward gate, and not the limit of the actions gate for the precision, which is as
low as 0.0001: to prove a limit m takes about 3/m clean episodes by *any* method, since a variant that goes wholly wrong
in a share m of all episodes shows nothing in as many; 157 for 2 %, 30,000 for 0.0001. Nor are losses scaled up to prove
it with fewer: an episode in which all goes wrong would then count less than it costs.

This proof is weaker than one of rewards. The recorded episodes are those of the reference, so where small differences
lead to is not seen, nor what they cost. So the status stays ``provisional``; the record says that the variant agrees on
recordings, and ``xfer recommend --on-recordings`` takes it.

``episode_losses`` and ``judge_recordings`` are pure functions, for a simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from export.bundle.manifest import Spreads
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.verification.non_inferiority import MARGIN, Verdict, judge_jointly
from export.verification.parity import unfinished
from export.verification.tolerances import action_difference, regret
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories
from xfer.trajectories.chunks import acted

LIMIT = MARGIN
"""Largest mean action loss in recorded episodes."""


def run_gate(bundle: Bundle, found: dict[str, Verification], held_out: Trajectories) -> dict[str, Verification]:
    """Judge on recordings the variants that passed the first two gates.

    Args:
        bundle: The bundle.
        found: The verdicts of the first two gates, with the reason why their rewards are not compared.
        held_out: Observations of episodes kept out of training and calibration, with the reference's actions and
            scores; without them the reference acts here.

    Returns:
        ``found`` with verdicts; rejected ones have a loss that is certainly above the limit.
    """
    names = [name for name, v in found.items() if v.status == "provisional" and name != bundle.reference]
    held_out = held_out.take(distinct_episodes(held_out))
    reference = held_out if held_out.actions is not None else _replayed(bundle, bundle.reference, held_out)
    spreads, episodes = bundle.spreads(), held_out.episodes()
    result, losses = dict(found), {}
    for name in names:
        try:
            steps = step_losses(reference, _replayed(bundle, name, held_out), bundle.spec, spreads)
        except Exception as error:  # whatever a runtime raises: the others go on
            result[name] = unfinished(bundle.build(name), error, "recordings")
        else:
            losses[name] = episode_losses(steps, episodes)
    for name, verdict in judge_recordings(losses).items():
        result[name] = conclude(found[name], verdict, len(losses[name]))
    if bundle.reference in found and found[bundle.reference].status == "provisional":
        result[bundle.reference] = replace(
            found[bundle.reference],
            rung="recordings",
            episodes=len(episodes),
            recordings_bound=0.0,
            agrees_on_recordings=True,
            reason=f"{found[bundle.reference].reason}; it is the reference itself",
        )
    return result


def distinct_episodes(recorded: Trajectories) -> list[slice]:
    """Return where the episodes lie; one that is there again, to the last bit, proves no more than it did."""
    found: dict[str, slice] = {}
    for episode in recorded.episodes():
        found.setdefault(recorded.take([episode]).digest(), episode)
    return list(found.values())


def step_losses(reference: Trajectories, variant: Trajectories, spec: PolicySpec, spreads: Spreads) -> np.ndarray:
    """Return the loss of each of the variant's actions, float [T] in [0, 1]; one that is not a number costs 1.

    Args:
        reference: The reference's actions and scores; of a policy that plans ahead, what it plans at each step.
        variant: The variant's actions on the same observations. Those that are acted of both are compared.
        spec: Says how to count.
        spreads: Of what the live policy gave.
    """
    reference, variant = acted(reference, spec), acted(variant, spec)
    assert reference.actions is not None
    assert reference.scores is not None
    assert variant.actions is not None
    if spec.action.kind == "discrete":
        loss = regret(reference.scores, variant.actions, spec, spreads)
    else:
        loss = action_difference(reference.actions, variant.actions, spec.action, spreads).max(axis=1)
    return np.where(loss <= 1.0, np.maximum(loss, 0.0), 1.0)


def episode_losses(steps: np.ndarray, episodes: Sequence[slice]) -> np.ndarray:
    """Return the mean loss of each episode: float [number of episodes]."""
    return np.array([steps[episode].mean() for episode in episodes])


def judge_recordings(losses: Mapping[str, np.ndarray]) -> dict[str, Verdict]:
    """Judge the variants of a bundle jointly; ``verified`` says that one agrees on recordings.

    Args:
        losses: float [number of episodes] in [0, 1] of each, of the same episodes in the same order.
    """
    return judge_jointly(losses, LIMIT, at_once=True)


def conclude(so_far: Verification, verdict: Verdict, episodes: int) -> Verification:
    """Return a verification with a verdict on recordings."""
    agrees, worse = verdict.status == "verified", verdict.lower > LIMIT
    bound = f"the 95 % bound of the mean action loss is {verdict.upper:.2%} over {episodes} recorded episodes"
    if worse:
        reason = f"recordings: mean action loss {verdict.mean:.2%} over {episodes} episodes, allowed {LIMIT:.0%}"
    elif agrees:
        reason = f"{so_far.reason}; it agrees on recordings: {bound}"
    else:
        more = f"{verdict.needed:,} more clean ones needed" if verdict.needed else "it looks worse"
        reason = f"{so_far.reason}; recordings: {bound}, allowed {LIMIT:.0%}; {more}"
    return replace(
        so_far,
        status="rejected" if worse else "provisional",
        rung="recordings",
        reason=reason,
        episodes=episodes,
        recordings_bound=verdict.upper,
        agrees_on_recordings=agrees,
    )


def _replayed(bundle: Bundle, name: str, held_out: Trajectories) -> Trajectories:
    with bundle.runner(name) as runner:
        return held_out.replay(runner)
