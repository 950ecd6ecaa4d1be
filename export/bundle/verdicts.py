"""Verdicts: what verification found of a variant, and which of two verdicts is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from export.bundle.manifest import Build

Status = Literal["verified", "provisional", "rejected", "built", "failed", "unavailable"]
Gate = Literal["", "fidelity", "numbers", "actions", "reward", "recordings", "trials"]
GATES: tuple[Gate, ...] = get_args(Gate)
PROVEN = ("verified", "provisional")


@dataclass(frozen=True)
class Divergence:
    """Where a variant first chose another action than the reference: the first such pair in the order of seeds.

    Attributes:
        seed: Seed of the pair.
        step: Step of the episode, counted from 0.
        reference_action: The reference's action there, in the environment's units.
        variant_action: The variant's.
        margin: Regret of the variant's action by the reference's scores, as the actions gate counts it.
        picture: The observation of both at that moment, as PNG in base64; empty where the task has no image.
    """

    seed: int
    step: int
    reference_action: tuple[float, ...]
    variant_action: tuple[float, ...]
    margin: float
    picture: str = ""


@dataclass(frozen=True)
class Verification:
    """The verdict on one variant: see ``export/verification/``.

    Attributes:
        status: ``verified``, ``provisional``, ``rejected``; ``built`` if it could not be run here, ``failed`` if its
            runtime gave up, ``unavailable`` if there are no files.
        rung: The highest gate that was reached.
        reason: Which gate and which figure, or what is missing.
        max_abs_diff: Largest difference of a score from golden, after centering.
        tolerance: What that may be, or None where it is not judged.
        agreement: Share of observations on which variant and reference choose the same action.
        regret: Mean regret of the variant's actions by the reference's scores.
        observations: How many observations the actions gate looked at.
        pairs: Pairs of episodes with the same seeds.
        pairs_needed: How many more pairs a provisional variant needs, all clean; if it looks worse, like those so far.
        forked: Pairs in which the actions differed at some step.
        reward_mean: The variant's mean return.
        reward_delta: Its mean return minus the reference's, in the task's own units.
        reward_interval: One-sided 95 % bounds below and above of that difference, in which a pair counts at most as
            the whole scale.
        worst: The worst disagreements, as sentences.
        returns: (seed, the reference's return, the variant's return) of each pair, in the order of seeds; of trials,
            which have no seed, their number.
        divergence: Where the variant first chose another action than the reference, or None if it never did.
        seed_base: Seed of the first pair; None if there are no pairs.
        episodes: Recorded episodes that the recordings gate looked at.
        recordings_bound: 95 % bound above the variant's mean action loss in such episodes.
        agrees_on_recordings: Whether that proves, jointly with the other variants, that the loss is under its limit.
        trials_margin: Largest mean loss in trials that was allowed, in the unit of their returns.
        max_episode_steps: Steps after which the episodes of the pairs were truncated, or None.
    """

    status: Status
    rung: Gate = ""
    reason: str = ""
    max_abs_diff: float | None = None
    tolerance: float | None = None
    agreement: float | None = None
    regret: float | None = None
    observations: int = 0
    pairs: int = 0
    pairs_needed: int = 0
    forked: int = 0
    reward_mean: float | None = None
    reward_delta: float | None = None
    reward_interval: tuple[float, float] | None = None
    worst: tuple[str, ...] = ()
    returns: tuple[tuple[int, float, float], ...] = ()
    divergence: Divergence | None = None
    seed_base: int | None = None
    episodes: int = 0
    recordings_bound: float | None = None
    agrees_on_recordings: bool = False
    trials_margin: float | None = None
    max_episode_steps: int | None = None


def unjudged(build: Build) -> Verification:
    """Return what is known of a build that no gate has seen: what became of building it."""
    return Verification(cast(Status, build.status), reason=build.reason)


def stronger(before: Verification | None, new: Verification) -> Verification:
    """Return which of two verdicts on the same files is kept, with the actions gate that saw more.

    A rejection replaces whatever was there, and gives way only to a verdict that looked at least as closely. So does a
    failure, which may have been of the moment: it gives way to any. Otherwise
    a verified one is stronger than one that is not, then the higher gate, then more pairs; of equals, the new one.
    """
    if before is None or new.status in ("rejected", "failed") or before.status == "failed" or _run_anew(before, new):
        return new
    if before.status == "rejected":
        return new if _overturns(new, before) else before
    kept, other = (new, before) if _strength(new) >= _strength(before) else (before, new)
    if other.observations <= kept.observations:
        return kept
    figures = ("max_abs_diff", "tolerance", "agreement", "regret", "observations", "worst")
    return replace(kept, **{name: getattr(other, name) for name in figures})


def _run_anew(before: Verification, new: Verification) -> bool:
    """Whether old pairs do not count: episodes are truncated elsewhere now, or the same seeds gave other returns.

    An environment was then found not to replay.
    """
    if not before.rung == new.rung == "reward":
        return False
    both = zip(before.returns, new.returns, strict=False)
    other = any(old[0] == now[0] and old != now for old, now in both)
    return other or before.max_episode_steps != new.max_episode_steps


def _strength(verdict: Verification) -> tuple[bool, int, int]:
    proves_nothing = verdict.rung == "recordings" and not verdict.agrees_on_recordings
    return verdict.status == "verified", GATES.index("actions" if proves_nothing else verdict.rung), verdict.pairs


def _overturns(new: Verification, rejection: Verification) -> bool:
    if new.rung == rejection.rung == "reward":
        return new.pairs >= rejection.pairs
    if rejection.rung == "actions" and new.observations < rejection.observations:
        return False
    return GATES.index(new.rung) >= GATES.index(rejection.rung)
