"""How often verdicts are wrong: of one variant, of the one among thirteen that is recommended, and of a rejected one.

Losses are drawn for many comparisons at once, and judged as the reward gate judges pairs of episodes: it looks after
every ten, and a variant whose verdict is clear runs no more. Recorded episodes and trials are judged by the same bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.claims import Options, Outcome
from benchmarks.report.decision import Limits, decide
from benchmarks.report.facts import Facts
from export.verification.non_inferiority import MARGIN, REFUTED, log_wealth, refuted
from export.verification.reward import LOOK_EVERY
from export.verification.verify import DEFAULT_PAIRS, FULL_PAIRS
from xfer.spec import RewardScale

COMPARISONS, VARIANTS = 2000, 13
MAX_SHARE, MAX_REJECTED = 0.06, 0.05
CLAIM = (
    f"A policy that is worse by exactly the margin ({MARGIN:.0%} of the scale) is verified in at most {MAX_SHARE:.0%}"
    f" of {COMPARISONS:,} comparisons, stopped as `xfer verify --full` stops; in as many bundles of {VARIANTS}, the"
    f" fastest of which it is, it is recommended in at most {MAX_SHARE:.0%}; and an equal but noisy one is rejected"
    f" after {DEFAULT_PAIRS} pairs in at most {MAX_REJECTED:.0%}."
)
AT_ONCE = 50
"""How many comparisons are drawn together: what fits a processor's cache."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Returns losses as shares of the scale, float [comparisons, variants, pairs], from a random generator."""


# Losses whose mean is ``MARGIN``, or as said.


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Differ in every episode."""
    return rng.uniform(-0.5, 0.5, shape) + MARGIN


def rare(rng: np.random.Generator, shape: tuple[int, ...], mean: float = MARGIN) -> np.ndarray:
    """Lose half of the scale in a few episodes."""
    return (rng.random(shape) < 2 * mean) * 0.5


def in_the_same_episodes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose in the same few episodes as all other variants of the bundle."""
    return rare(rng, (shape[0], 1, shape[2])) + rng.uniform(-0.01, 0.01, shape)


def wrong_throughout(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Act wrongly throughout a few recorded episodes."""
    return (rng.random(shape) < MARGIN) * 1.0


def wrong_at_times(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Act wrongly at some steps of every recorded episode."""
    losses: np.ndarray = rng.beta(0.2, 0.2 / MARGIN - 0.2, shape)
    return losses


def successes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Succeed in 88 % of trials, where the reference succeeds in 90 % of its own."""
    return (rng.random(shape) < 0.9) * 1.0 - (rng.random(shape) < 0.9 - MARGIN)


def unpaired_returns(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Have returns in trials that vary as much as the reference's in its own."""
    return rng.uniform(0.2, 0.9, shape) + MARGIN - rng.uniform(0.2, 0.9, shape)


def worse_by_half_as_much_again(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose half of the scale in a few episodes; the mean is one and a half times the margin."""
    return rare(rng, shape, 1.5 * MARGIN)


def clean(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose nothing."""
    return np.zeros(shape)


def mild(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose a little or gain it; the mean is 0."""
    return rng.normal(0.0, 0.05, shape)


def hopeless(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose half of the scale in the mean."""
    return rng.random(shape)


def noisy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose or gain; the mean is 0."""
    return rng.uniform(-0.5, 0.5, shape)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose or gain, sometimes more than the scale; the mean is 0."""
    losses: np.ndarray = rng.normal(0.0, 0.4, shape)
    return losses


def lost_or_gained(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose or gain half of the scale in 10 % of the episodes."""
    losses: np.ndarray = rng.choice([-0.5, 0.5], shape) * (rng.random(shape) < 0.1)
    return losses


def all_or_nothing(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Lose or gain the whole scale in every episode."""
    losses: np.ndarray = rng.choice([-1.0, 1.0], shape)
    return losses


@dataclass(frozen=True)
class Case:
    """Comparisons of one kind.

    Attributes:
        wrongly: What must not become of a variant that deserves it not.
        losses: What is simulated.
        mix: How many variants there are of which losses, the fastest first. The first so many must not be it.
        worse: How many these are.
        pairs: How many pairs a variant runs at most.
        at_most: The share of comparisons in which it may happen.
    """

    wrongly: Literal["verified", "recommended", "rejected"]
    losses: str
    mix: tuple[tuple[int, Draw], ...]
    worse: int = 1
    pairs: int = FULL_PAIRS
    at_most: float = MAX_SHARE


def _bundle(losses: str, *mix: tuple[int, Draw], worse: int = 1) -> Case:
    return Case("recommended", losses, mix, worse)


CASES = (
    Case("verified", "uniform losses", ((1, uniform),)),
    Case("verified", "capped returns, half of the scale lost in 4 % of the episodes", ((1, rare),)),
    _bundle("uniform losses; 12 clean ones", (1, uniform), (12, clean)),
    _bundle("rare large losses; 12 clean ones", (1, rare), (12, clean)),
    _bundle("rare large losses; 12 mildly noisy ones", (1, rare), (12, mild)),
    _bundle("uniform losses; 11 mildly noisy ones, 1 hopeless", (1, uniform), (11, mild), (1, hopeless)),
    _bundle("rare large losses, 1.5 times the margin; 12 clean ones", (1, worse_by_half_as_much_again), (12, clean)),
    _bundle("6 such policies, 7 clean ones", (3, uniform), (3, rare), (7, clean), worse=6),
    _bundle("13 such policies, uniform losses", (13, uniform), worse=13),
    _bundle("13 such policies, rare large losses", (13, rare), worse=13),
    _bundle("13 such policies, losses in the same episodes", (13, in_the_same_episodes), worse=13),
    *(
        Case("rejected", f"equal: {said}", ((1, draw),), pairs=DEFAULT_PAIRS, at_most=MAX_REJECTED)
        for said, draw in (
            ("uniform", noisy),
            ("normal", normal),
            ("half of the scale lost or gained in 10 % of the episodes", lost_or_gained),
            ("all of the scale lost or gained", all_or_nothing),
        )
    ),
    *(
        Case("verified", f"{said}, any of 13 variants", ((VARIANTS, draw),), VARIANTS)
        for said, draw in (
            ("recordings: all actions wrong in 2 % of the episodes", wrong_throughout),
            ("recordings: some actions wrong in every episode", wrong_at_times),
            ("trials: successes", successes),
            ("trials: returns", unpaired_returns),
        )
    ),
)


def reproduce(options: Options) -> Outcome:
    """Simulate the comparisons."""
    comparisons = options.runs or COMPARISONS
    rows = []
    for index, case in enumerate(CASES):
        wrong = 0
        for begin in range(0, comparisons, AT_ONCE):
            rng = np.random.default_rng((options.seed, index, begin))
            wrong += went_wrong(case, rng, min(AT_ONCE, comparisons - begin))
        share = wrong / comparisons
        rows.append(
            {
                "wrongly": case.wrongly,
                "losses": case.losses,
                "comparisons": comparisons,
                "wrong": wrong,
                "share": share,
                "at_most": case.at_most,
                "holds": share <= case.at_most,
            }
        )
    return Outcome(tuple(rows))


def went_wrong(case: Case, rng: np.random.Generator, comparisons: int) -> int:
    """Return in how many comparisons it happened."""
    drawn = [draw(rng, (comparisons, count, case.pairs)) for count, draw in case.mix]
    verified, rejected = judged(np.concatenate(drawn, axis=1))
    if case.wrongly == "recommended":
        chosen = [recommended(*statuses) for statuses in zip(verified, rejected, strict=True)]
        return sum(variant is not None and variant < case.worse for variant in chosen)
    found = verified if case.wrongly == "verified" else rejected
    return int(found[:, : case.worse].any(axis=1).sum())


def judged(losses: np.ndarray, margin: float = MARGIN) -> tuple[np.ndarray, np.ndarray]:
    """Judge as the reward gate does, in all comparisons at once.

    Args:
        losses: float [comparisons, variants, pairs].
        margin: Largest mean loss that is "not worse".

    Returns:
        Which variants are verified, and which rejected, in the end: each bool [comparisons, variants].
    """
    losses = np.clip(losses, -1.0, 1.0)
    stakes, against = log_wealth(losses, margin), log_wealth(-losses, -margin)
    verified = np.zeros(losses.shape[:2], bool)
    rejected, kept = verified.copy(), np.zeros(losses.shape[:2])
    for begin in range(0, losses.shape[2], LOOK_EVERY):
        clear, look = verified | rejected, slice(begin, begin + LOOK_EVERY)
        if clear.all():
            break
        now = np.where(clear[..., None], kept[..., None], stakes[..., look])
        verified |= ~rejected & refuted(now).any(axis=2)
        rejected |= ~clear & ~verified & (against[..., look].max(axis=2) >= REFUTED)
        kept = now[..., -1]
    return verified, rejected


def recommended(verified: np.ndarray, rejected: np.ndarray) -> int | None:
    """Return which variant of a bundle `xfer recommend` names, or None; the first is the fastest."""
    facts = [
        Facts(
            variant=str(variant),
            status="verified" if proven else "rejected" if refused else "provisional",
            reward_delta=0.0,
            reward_interval=(-MARGIN, 0.0) if proven else (-1.0, 0.0),
            p50_ms=1.0 + variant,
        )
        for variant, (proven, refused) in enumerate(zip(verified, rejected, strict=True))
    ]
    chosen = decide(facts, Limits(), "eager", RewardScale(0.0, 1.0)).chosen
    return None if chosen is None else int(chosen.variant)
