"""The first two gates: does a variant act as the reference does? Numbers, then actions; ``reward.py`` is the third.

Each gate is a function that returns figures and, if the variant fails, a sentence. A variant goes through them until
one fails or cannot be run here. The reference does so too: golden holds its own answers from when the bundle was made,
so if it fails the first gate, golden (or the weights) is of another policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from export import targets
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.targets import Variant
from xfer.errors import UnavailableError
from xfer.runner import Runner, Session
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

SCORE_TOLERANCE = {"fp32": 0.001, "tf32": 0.01, "fp16": 0.02, "bf16": 0.06}
"""Largest difference of a score, as a share of golden's score spread. int8 is reported, not judged."""

REGRET_TOLERANCE = {"fp32": 0.0001}
"""Largest mean regret of a discrete action; 0.005 for every other precision."""

ACTION_TOLERANCE = {"fp32": 0.005}
"""Largest mean difference of a continuous action, as a share of its range; 0.02 for every other precision."""

WORST = 5
"""How many disagreements are listed."""


@dataclass(frozen=True)
class Numbers:
    """The first gate's figures for the worst batch: difference, tolerance, and the failure if there is one."""

    max_abs_diff: float
    tolerance: float | None
    failure: str = ""


def numbers(session: Session, spec: PolicySpec, golden: Trajectories, precision: str, max_batch: int | None) -> Numbers:
    """Play the golden trajectories, with batch 1 and (where the variant has it) 3, and compare scores.

    Raises:
        ScoresError: If scores are not finite.
    """
    assert golden.scores is not None
    wanted = centered(golden.scores, spec)
    share = SCORE_TOLERANCE.get(precision)
    tolerance = None if share is None else share * float(wanted.std())
    worst, failure = 0.0, ""
    for batch in (1, 3) if max_batch is None or max_batch >= 3 else (1,):
        for row, scores in enumerate(play(session, spec, golden, batch)):
            difference = np.abs(centered(scores, spec) - wanted).max(axis=1)
            step = int(difference.argmax())
            worst = max(worst, float(difference[step]))
            if tolerance is not None and difference[step] > tolerance and not failure:
                failure = (
                    f"numbers: score differs by {difference[step]:.3g} at golden step {step} (batch {batch},"
                    f" row {row}), allowed {tolerance:.3g}"
                )
    return Numbers(worst, tolerance, failure)


def centered(scores: np.ndarray, spec: PolicySpec) -> np.ndarray:
    """Return scores without what all actions have in common, which cannot change a discrete choice."""
    return scores if spec.score_kind == "mean" else scores - scores.mean(axis=1, keepdims=True)


def play(session: Session, spec: PolicySpec, golden: Trajectories, batch: int) -> list[np.ndarray]:
    """Return golden's scores as the session gives them, [T, A] for each row of the batch.

    Every row plays all episodes, but row i begins with episode i; so rows are at different steps and are reset at
    different times, and a session that mixes up rows or states cannot get all of them right.
    """
    episodes = golden.episodes()
    orders = []
    for row in range(batch):
        first = row % len(episodes)
        order = episodes[first:] + episodes[:first]
        orders.append(np.concatenate([np.arange(part.start, part.stop) for part in order]))
    runner = Runner(session, spec, batch)
    results = [np.empty((len(golden), len(spec.action.elements)), np.float32) for _ in orders]
    for t in range(len(golden)):
        now = np.array([order[t] for order in orders])
        runner.reset(golden.resets[now], golden.starting(now))
        scores = runner.act({name: array[now] for name, array in golden.observations.items()}).scores
        for row, index in enumerate(now):
            results[row][index] = scores[row]
    return results


@dataclass(frozen=True)
class Actions:
    """The second gate's figures."""

    agreement: float
    regret: float
    observations: int
    worst: tuple[str, ...]
    failure: str = ""


def actions(reference: Trajectories, variant: Trajectories, spec: PolicySpec, precision: str) -> Actions:
    """Compare the actions of the reference and of a variant on the same observations.

    Args:
        reference: The reference's actions and scores.
        variant: The variant's.
        spec: The contract.
        precision: The variant's precision.
    """
    assert reference.scores is not None
    assert reference.actions is not None
    assert variant.actions is not None
    if spec.action.kind == "discrete":
        loss = regret(reference.scores, variant.actions, spec)
        allowed, what = REGRET_TOLERANCE.get(precision, 0.005), "mean regret"
        same = variant.actions == reference.actions
    else:
        loss = difference(reference.actions, variant.actions, spec)
        allowed, what = ACTION_TOLERANCE.get(precision, 0.02), "mean difference (share of the action range)"
        same = loss <= allowed
    worst = tuple(
        f"step {t}: reference {np.asarray(reference.actions[t]).tolist()}, variant"
        f" {np.asarray(variant.actions[t]).tolist()}, {what.split()[1]} {loss[t]:.3g}"
        for t in np.argsort(-loss)[:WORST]
        if loss[t] > 0
    )
    mean = float(loss.mean())
    failure = f"actions: {what} {mean:.3g} over {len(loss)} observations, allowed {allowed:g}" if mean > allowed else ""
    return Actions(float(same.mean()), mean, len(loss), worst, failure)


def difference(reference: np.ndarray, variant: np.ndarray, spec: PolicySpec) -> np.ndarray:
    """Return how far continuous actions [T, A] lie apart, as a share of their range: float [T]."""
    span = np.array(spec.action.high) - np.array(spec.action.low)
    result: np.ndarray = (np.abs(variant - reference) / span).mean(axis=1)
    return result


def regret(scores: np.ndarray, chosen: np.ndarray, spec: PolicySpec) -> np.ndarray:
    """Return the regret of each chosen action by the reference's scores; a flip at a tie costs nothing.

    Args:
        scores: The reference's, [T, A].
        chosen: The variant's actions, int [T].
        spec: Says whether scores are logits (regret in softmax probability) or values (in units of their spread).
    """
    if spec.score_kind == "logits":
        preference = np.exp(scores - scores.max(axis=1, keepdims=True))
        preference /= preference.sum(axis=1, keepdims=True)
    else:
        preference = scores / max(float(centered(scores, spec).std()), 1e-12)
    rows = np.arange(len(chosen))
    result: np.ndarray = preference.max(axis=1) - preference[rows, chosen]
    return result


def first_gates(
    bundle: Bundle, variants: list[str], held_out: Trajectories | None, on_start: Callable[[str], None]
) -> dict[str, Verification]:
    """Run the first two gates on each variant.

    Args:
        bundle: The bundle.
        variants: Names, with or without @PLACE.
        held_out: Observations of episodes kept out of training and calibration; golden alone is used without them.
        on_start: Called with the name of each variant.

    Returns:
        The verdict on each so far; ``provisional`` means that it passed both.
    """
    golden = bundle.golden()
    judged = golden if held_out is None else held_out
    reference = _reference(bundle, judged)
    found: dict[str, Verification] = {}
    for name in variants:
        build = bundle.builds[name.partition("@")[0]]
        parsed = Variant.parse(name)
        if build.status != "built":
            found[name] = Verification(build.status, reason=build.reason)
            continue
        if (reason := targets.load(parsed.target).runnable(parsed.place)) is not None:
            found[name] = Verification("built", reason=build.not_run(reason))
            continue
        try:
            on_start(name)
            with bundle.session(name) as session:
                found[name] = run_gates(bundle, session, parsed, golden, reference, judged)
        except UnavailableError as error:
            found[name] = Verification("built", reason=build.not_run(str(error)))
        except Exception as error:  # whatever a runtime raises on files that it cannot read or run
            found[name] = Verification("rejected", rung="numbers", reason=f"numbers: {' '.join(str(error).split())}")
    return found


def _reference(bundle: Bundle, judged: Trajectories) -> Trajectories:
    """Return the reference's actions on the judged observations: recorded with them, as in golden, or made now."""
    if judged.actions is not None:
        return judged
    with bundle.runner(bundle.reference) as runner:
        return judged.replay(runner)


def run_gates(
    bundle: Bundle,
    session: Session,
    variant: Variant,
    golden: Trajectories,
    reference: Trajectories,
    judged: Trajectories,
) -> Verification:
    """Run the first two gates on one session.

    Args:
        bundle: The bundle.
        session: The variant, opened.
        variant: Its name.
        golden: The golden trajectories.
        reference: The reference's actions and scores on the judged observations.
        judged: The observations of the actions gate.
    """
    spec, build = bundle.spec, bundle.builds[variant.build]
    first = numbers(session, spec, golden, variant.precision, build.max_batch)
    so_far = Verification("provisional", rung="numbers", max_abs_diff=first.max_abs_diff, tolerance=first.tolerance)
    if first.failure:
        blame = ""
        if variant.build == bundle.reference:
            blame = ". Golden is not from this policy's weights: golden, or the weights, were exchanged"
        return replace(so_far, status="rejected", reason=first.failure + blame)
    runner = Runner(session, spec)
    second = actions(reference, judged.replay(runner), spec, variant.precision)
    so_far = replace(
        so_far,
        rung="actions",
        agreement=second.agreement,
        regret=second.regret,
        observations=second.observations,
        worst=second.worst,
    )
    return replace(so_far, status="rejected", reason=second.failure) if second.failure else so_far
