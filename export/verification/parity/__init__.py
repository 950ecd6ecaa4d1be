"""The first two gates: does a variant act as the reference does? Numbers, then actions; ``reward.py`` is the third.

Each gate is a function that returns figures and, if the variant fails, a sentence. A variant goes through them until
one fails or cannot be run here. The reference does so too: golden holds its own answers from when the bundle was made,
so if it fails the first gate, golden (or the weights) is of another policy.

Of a policy that plans ahead both compare whole chunks, and each action of a chunk as if it were a row of its own. Its
unit is that of its element, taken over all recorded chunks: a joint's error is as large, whichever tick it is planned
for. Means are taken for each action of the chunk apart, and the worst one is judged: one that is wrong at a single
place would else be hidden by all the others. The first gate acts golden through the runner's queue as well.

play.py   golden, played again
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from export.bundle.manifest import Build, Spreads
from export.bundle.reader import Bundle, why_not
from export.bundle.records import Gate, Verification, unjudged
from export.bundle.spreads import masked, measure_spreads
from export.libraries import causes
from export.targets import Variant
from export.verification.parity.play import MakeRunner, play, play_queue
from export.verification.tolerances import action_difference, compare_scores, regret, ties
from xfer.errors import XferError
from xfer.runner import Runner, Session
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories
from xfer.trajectories.chunks import unrolled

REGRET_TOLERANCE = {"fp32": 0.0001}
"""Largest mean regret of a discrete action; 0.005 for every other precision."""

ACTION_TOLERANCE = {"fp32": 0.005}
"""Largest mean difference of any element of a continuous action, as a share of its scale; 0.02 for every other
precision."""

WORST = 5
"""How many disagreements are listed."""


@dataclass(frozen=True)
class Numbers:
    """The first gate's figures for the score that uses up most of its tolerance, and the failure if there is one.

    ``depends_on_batch`` says that there is none where golden is played in a batch of 1, ``queued`` that there is none
    in what the policy plans.
    """

    max_abs_diff: float
    tolerance: float | None
    failure: str = ""
    depends_on_batch: bool = False
    queued: bool = False


def numbers(
    session: Session,
    spec: PolicySpec,
    golden: Trajectories,
    precision: str,
    max_batch: int | None,
    spreads: Spreads | None = None,
    make: MakeRunner = Runner,
) -> Numbers:
    """Play the golden trajectories, with batch 1 and (where the variant has it) 3, and compare scores and choices.

    Args:
        session: The variant.
        spec: The contract.
        golden: The golden trajectories.
        precision: The variant's.
        max_batch: The largest batch that it takes.
        spreads: Of the live policy's scores; by default golden's.
        make: What acts; a runner with a fault, where that is tried out.

    Raises:
        ScoresError: If it gives what is no action.
    """
    spreads = spreads or measure_spreads([golden], spec)
    found: list[Numbers] = []
    for batch in (1, 3) if max_batch is None or max_batch >= 3 else (1,):
        alone_fits = batch > 1 and not any(one.failure for one in found)
        for row, played in enumerate(play(session, spec, golden, batch, make)):
            where = f"golden step {{step}} (batch {batch}, row {row})"
            one = compare(golden, played, spec, spreads, precision, where)
            found.append(replace(one, depends_on_batch=alone_fits and bool(one.failure)))
        if not spec.queued or any(one.failure for one in found):
            continue
        for row, (steps, due, through) in enumerate(play_queue(session, spec, golden, batch, make)):
            where = f"golden step {{step}}, as the runner acts it (batch {batch}, row {row})"
            one = compare(due, through, spec, spreads, precision, where, steps)
            found.append(replace(one, queued=bool(one.failure)))
    return next((one for one in found if one.failure), max(found, key=_used_up))


def compare(
    reference: Trajectories,
    variant: Trajectories,
    spec: PolicySpec,
    spreads: Spreads,
    precision: str,
    where: str,
    steps: np.ndarray | None = None,
) -> Numbers:
    """Compare scores and, of fp32, what was chosen from them.

    Args:
        reference: The reference's actions and scores: what it planned at each step, or what is acted there.
        variant: The variant's, on the same observations.
        spec: The contract.
        spreads: Of the live policy's scores.
        precision: The variant's.
        where: What to call a step, with {step} in it.
        steps: The number of each step, where they are not 0, 1, 2 ...
    """
    count = len(reference.resets)
    reference, variant = unrolled(reference, spec), unrolled(variant, spec)
    assert reference.scores is not None
    assert variant.scores is not None
    horizon = len(reference.scores) // count
    scores = compare_scores(reference.scores, variant.scores, spec, spreads, precision)
    row, element = scores.worst()
    judged = bool(np.isfinite(scores.allowed[row, element]))
    worst, allowed = float(scores.difference[row, element]), float(scores.allowed[row, element])
    failure = ""
    if judged and not worst <= allowed:
        failure = f"score of '{spec.action.elements[element]}' differs by {worst:.3g}, allowed {allowed:.3g}"
    elif judged and scores.unmasked.any():
        row, element = (int(i) for i in np.argwhere(scores.unmasked)[0])
        values = reference.scores[row, element], variant.scores[row, element]
        failure = (
            f"score of '{spec.action.elements[element]}' is {values[0]:.3g}, and {values[1]:.3g} here: one is a mask"
        )
    elif spec.action.kind == "discrete" and precision in REGRET_TOLERANCE:
        assert variant.actions is not None
        flips = np.flatnonzero(~ties(reference.scores, variant.actions, scores))
        if len(flips):
            row = int(flips[0])
            best, chosen = int(reference.scores[row].argmax()), int(variant.actions[row])
            gap = float(reference.scores[row, best]) - float(reference.scores[row, chosen])
            names = spec.action.elements[best], spec.action.elements[chosen]
            failure = f"'{names[0]}' has the higher score by {gap:.3g}, and '{names[1]}' is chosen"
    at = row // horizon if steps is None else int(steps[row // horizon])
    planned = f", action {row % horizon} of its chunk" if horizon > 1 else ""
    text = f"numbers: {failure} at {where.format(step=f'{at}{planned}')}" if failure else ""
    return Numbers(worst, allowed if judged else None, text)


def _severity(found: Numbers) -> tuple[bool, float]:
    return bool(found.failure), _used_up(found)


def _used_up(found: Numbers) -> float:
    return found.max_abs_diff if found.tolerance is None else found.max_abs_diff / found.tolerance


@dataclass(frozen=True)
class Actions:
    """The second gate's figures."""

    agreement: float
    regret: float
    observations: int
    worst: tuple[str, ...]
    failure: str = ""


def actions(
    reference: Trajectories, variant: Trajectories, spec: PolicySpec, precision: str, spreads: Spreads | None = None
) -> Actions:
    """Compare the actions of the reference and of a variant on the same observations.

    Args:
        reference: The reference's actions and scores.
        variant: The variant's.
        spec: The contract.
        precision: The variant's precision.
        spreads: Of what the live policy gave; by default the reference's here.
    """
    spreads = spreads or measure_spreads([reference], spec)
    horizon = spec.action.horizon
    reference, variant = unrolled(reference, spec), unrolled(variant, spec)
    assert reference.scores is not None
    assert reference.actions is not None
    assert variant.actions is not None
    failure = ""
    if spec.action.kind == "discrete":
        loss = regret(reference.scores, variant.actions, spec, spreads)
        if variant.scores is not None and precision in REGRET_TOLERANCE:  # which must not be blamed for its last bits
            scores = compare_scores(reference.scores, variant.scores, spec, spreads, precision)
            loss = np.where(ties(reference.scores, variant.actions, scores), 0.0, loss)
        means = loss.reshape(-1, horizon, 1).mean(axis=0)
        allowed, what = REGRET_TOLERANCE.get(precision, 0.005), "regret"
        same = variant.actions == reference.actions
        rows = np.arange(len(loss))
        forbidden = np.flatnonzero(masked(reference.scores, spreads.reach)[rows, variant.actions])
        if len(forbidden):
            name = spec.action.elements[int(variant.actions[forbidden[0]])]
            failure = f"actions: '{name}' is chosen at step {_step(forbidden[0], horizon)}, where the policy masks it"
    else:
        apart = action_difference(reference.actions, variant.actions, spec.action, spreads)
        means = apart.reshape(-1, horizon, apart.shape[1]).mean(axis=0)
        loss, allowed, what = apart.max(axis=1), ACTION_TOLERANCE.get(precision, 0.02), "difference"
        same = loss <= allowed
    planned, element = (int(i) for i in np.unravel_index(int(means.argmax()), means.shape))
    mean, observations = float(means[planned, element]), len(loss) // horizon
    worst = tuple(
        f"step {_step(t, horizon)}: reference {np.asarray(reference.actions[t]).tolist()}, variant"
        f" {np.asarray(variant.actions[t]).tolist()}, {what} {loss[t]:.3g}"
        for t in np.argsort(-loss)[:WORST]
        if loss[t] > 0
    )
    if not failure and not mean <= allowed:
        of = "" if spec.action.kind == "discrete" else f" of '{spec.action.elements[element]}' as a share of its scale"
        of += f" in action {planned} of its chunk" if horizon > 1 else ""
        failure = f"actions: mean {what}{of} {mean:.3g} over {observations} observations, allowed {allowed:g}"
    return Actions(float(same.mean()), mean, observations, worst, failure)


def _step(row: int, horizon: int) -> str:
    """Return the step that a row of unrolled chunks belongs to, and which action of its chunk it is."""
    return f"{row}" if horizon == 1 else f"{row // horizon}, action {row % horizon} of its chunk"


def first_gates(
    bundle: Bundle,
    variants: list[str],
    held_out: Trajectories | None,
    on_start: Callable[[str], None],
    make: MakeRunner = Runner,
) -> dict[str, Verification]:
    """Run the first two gates on each variant.

    Args:
        bundle: The bundle.
        variants: Names, with or without @PLACE.
        held_out: Observations of episodes kept out of training and calibration; golden alone is used without them.
        on_start: Called with the name of each variant.
        make: What acts golden; see ``numbers``.

    Returns:
        The verdict on each so far; ``provisional`` means that it passed both.
    """
    golden = bundle.golden()
    judged = golden if held_out is None else held_out
    reference = _reference(bundle, judged)
    found: dict[str, Verification] = {}
    for name in variants:
        build = bundle.builds[name.partition("@")[0]]
        if build.status != "built":
            found[name] = unjudged(build)
            continue
        if (reason := why_not(bundle, name)) is not None:
            found[name] = Verification("built", reason=build.not_run(reason))
            continue
        try:
            on_start(name)
            with bundle.session(name) as session:
                found[name] = run_gates(bundle, session, Variant.parse(name), golden, reference, judged, make)
        except Exception as error:  # whatever a runtime raises: the others go on
            found[name] = unfinished(build, error, "numbers")
    return found


def unfinished(build: Build, error: BaseException, gate: Gate) -> Verification:
    """Return the verdict on a variant that an exception has ended in a gate; ``causes.failure`` says which status."""
    status, reason = causes.failure(error)
    if status == "built":
        return Verification("built", reason=build.not_run(reason))
    return Verification(status, rung=gate, reason=f"{gate}: {reason}")


def _reference(bundle: Bundle, judged: Trajectories) -> Trajectories:
    """Return the reference's actions on the judged observations: recorded with them, as in golden, or made now."""
    if judged.actions is not None:
        return judged
    try:
        with bundle.runner(bundle.reference) as runner:
            return judged.replay(runner)
    except Exception as error:  # whatever its runtime raises
        why = causes.failure(error).reason
        raise XferError(f"{bundle.reference}, which the others are compared with, does not act here: {why}") from error


def run_gates(
    bundle: Bundle,
    session: Session,
    variant: Variant,
    golden: Trajectories,
    reference: Trajectories,
    judged: Trajectories,
    make: MakeRunner = Runner,
) -> Verification:
    """Run the first two gates on one session.

    Args:
        bundle: The bundle.
        session: The variant, opened.
        variant: Its name.
        golden: The golden trajectories.
        reference: The reference's actions and scores on the judged observations.
        judged: The observations of the actions gate.
        make: What acts golden; see ``numbers``.
    """
    spec, build, spreads = bundle.spec, bundle.builds[variant.build], bundle.spreads()
    first = numbers(session, spec, golden, variant.precision, build.max_batch, spreads, make)
    replayed = None
    if not first.failure:
        replayed = judged.replay(Runner(session, spec))
        where = "golden step {step}" if judged is golden else "held-out step {step}"
        first = max(first, compare(reference, replayed, spec, spreads, variant.precision, where), key=_severity)
    so_far = Verification("provisional", rung="numbers", max_abs_diff=first.max_abs_diff, tolerance=first.tolerance)
    if first.failure:
        blame = ""
        if first.queued:
            blame = ". What it infers is right: the runner's queue or frames are not"
        elif variant.build == bundle.reference:
            blame = ". Golden is not from this policy's weights: golden, or the weights, were exchanged"
            if first.depends_on_batch:
                blame = ". Alone it gives what golden holds: its answer depends on the other rows of its batch"
        return replace(so_far, status="rejected", reason=first.failure + blame)
    assert replayed is not None
    second = actions(reference, replayed, spec, variant.precision, spreads)
    so_far = replace(
        so_far,
        rung="actions",
        agreement=second.agreement,
        regret=second.regret,
        observations=second.observations,
        worst=second.worst,
    )
    return replace(so_far, status="rejected", reason=second.failure) if second.failure else so_far
