"""Which variant to ship: one judge, for a report's "Ship ..." and for ``xfer recommend``.

The rule. A variant is acceptable if all of this holds, in this order:

1. It was built, and this machine can run it.
2. It is verified on a machine of this kind, by pairs of episodes or by trials; or provisional, where
   ``Limits.allow_provisional`` says so, or where ``Limits.on_recordings`` does and it agrees with the reference on
   recordings. The verdict of another kind does not count.
3. Its loss of reward is at most ``Limits.max_reward_drop``. Of a verified variant that is the bound of its loss; of a
   provisional one the loss that was seen, since a bound over a few episodes rules out little. The reference, which the
   others are compared with, loses nothing. Of trials, whose unit may be another one than the reward scale's, the
   margin that they were judged by counts as 2 % of the scale. A variant whose reward was never compared is not
   acceptable; but one that agrees on recordings is, where ``Limits.on_recordings`` says so: the bound of its action
   loss is under its limit.
4. It was measured on this machine.
5. It keeps ``Limits.deadline_ms``, where there is one. If a control loop was run, paced as on a robot, the loop
   decides: the 95 % bound above its rate of misses has to be at most ``Limits.max_miss_rate``
   (``benchmarks/stats/miss_rate.py``); of several, the newest that proves anything decides. Otherwise the upper 99 %
   bound of p99 of back-to-back calls has to be within the deadline. Without a deadline neither is needed, so a quick
   bench is enough.

Of the acceptable variants, the one with the smallest p50 is shipped; of equal ones, the first by name. Those that are
not shown to take longer, start by start, tie with it, and the answer names them. A quick bench has too few starts to
tell.

A report judges what it measured, ``xfer recommend`` what benches left in the bundle (``facts.py``). Of the same
measurements and limits both name the same variant, or none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import table
from benchmarks.report.facts import Facts
from benchmarks.stats import miss_rate
from benchmarks.stats.miss_rate import Judged
from benchmarks.stats.starts import MIN_STARTS, shown_longer
from export.bundle.latencies import LoopRecord
from export.verification.non_inferiority import MARGIN
from xfer.errors import UsageError
from xfer.spec import RewardScale

RUNS, VERIFIED, REWARD, MEASURED, DEADLINE, ACCEPTED = range(6)
"""How far a variant came: the condition that it fails, in the order of the rule, or ``ACCEPTED``."""


@dataclass(frozen=True)
class Limits:
    """What a variant must keep to be shipped.

    Attributes:
        deadline_ms: Longest acceptable time from raw frame to action, in milliseconds, or None for any.
        max_reward_drop: Largest acceptable loss, as a share of the reference return less the random return.
        allow_provisional: Whether variants that look clean on too few episodes for a proof are acceptable.
        on_recordings: Whether variants are acceptable that act as the reference does in recorded episodes, though their
            rewards were never compared.
        max_miss_rate: Largest acceptable share of a control loop's ticks that miss the deadline.
    """

    deadline_ms: float | None = None
    max_reward_drop: float = 0.02
    allow_provisional: bool = False
    on_recordings: bool = False
    max_miss_rate: float = 0.001

    def check(self) -> Limits:
        """Return the limits themselves.

        Raises:
            UsageError: On a deadline, drop or rate that means nothing.
        """
        if not 0 < self.max_miss_rate < 1:
            raise UsageError(f"--max-miss-rate {self.max_miss_rate:g} is a share that ticks can prove: use 0.001, say.")
        if not 0 <= self.max_reward_drop <= 1:
            raise UsageError(f"--max-reward-drop {self.max_reward_drop:g} is a share: use 0 to 1, as 0.02.")
        if self.deadline_ms is not None and not (math.isfinite(self.deadline_ms) and self.deadline_ms > 0):
            raise UsageError(f"--deadline-ms {self.deadline_ms:g} is not a positive number.")
        return self

    def options(self) -> list[str]:
        """Return them as options of a command; the defaults are left out."""
        words = [] if self.deadline_ms is None else ["--deadline-ms", f"{self.deadline_ms:g}"]
        if self.max_reward_drop != Limits.max_reward_drop:
            words += ["--max-reward-drop", f"{self.max_reward_drop:g}"]
        if self.max_miss_rate != Limits.max_miss_rate:
            words += ["--max-miss-rate", f"{self.max_miss_rate:g}"]
        words += ["--allow-provisional"] if self.allow_provisional else []
        return [*words, "--on-recordings"] if self.on_recordings else words

    def __str__(self) -> str:
        """Return them in words.

        Example:
            >>> print(Limits(20.0))
            deadline 20 ms, at most 2 % of the reward lost, verified variants only
        """
        deadline = "no deadline" if self.deadline_ms is None else f"deadline {self.deadline_ms:g} ms"
        if self.deadline_ms is not None and self.max_miss_rate != Limits.max_miss_rate:
            deadline += f" (at most {table.share(self.max_miss_rate)} missed)"
        allowed = ["provisional variants"] if self.allow_provisional else []
        allowed += ["agreement on recordings"] if self.on_recordings else []
        which = f"{' and '.join(allowed)} allowed" if allowed else "verified variants only"
        return f"{deadline}, at most {table.share(self.max_reward_drop)} of the reward lost, {which}"


@dataclass(frozen=True)
class Paced:
    """What a control loop says of a deadline.

    Attributes:
        loop: The loop.
        missed: How many ticks missed the deadline; at least so many, where it is not ``exact``.
        exact: Whether the loop's record tells their number.
        judged: What that proves.
    """

    loop: LoopRecord
    missed: int
    exact: bool
    judged: Judged

    @property
    def share(self) -> float:
        """Share of the ticks that missed the deadline; 1 for a loop that did not run to its end."""
        return self.missed / self.loop.ticks if self.loop.ticks and not self.loop.error else 1.0

    def __str__(self) -> str:
        """Say how many deadlines were missed, but not which."""
        return f"{'' if self.exact else 'at least '}{self.missed:,} of {self.loop.ticks:,} deadlines"


def paced(loop: LoopRecord, deadline_ms: float, max_miss_rate: float) -> Paced | None:
    """Hold a deadline against a control loop, or return None where its record does not tell about this one."""
    least, most = loop.missed_at(deadline_ms)
    if least == most:
        return Paced(loop, least, True, miss_rate.judge(least, loop.ticks, max_miss_rate))
    for missed, proof in ((most, "kept"), (least, "missed")):
        judged = miss_rate.judge(missed, loop.ticks, max_miss_rate)
        if judged.verdict == proof:
            return Paced(loop, missed, missed == most, judged)
    if not loop.slowest_ms:  # of version 0.2.0
        return None
    return Paced(loop, least, False, Judged("not proven", miss_rate.upper_bound(most, loop.ticks), None))


def deciding(facts: Facts, limits: Limits) -> Paced | None:
    """Return what the control loop says that decides the deadline; None if no loop can.

    It is the newest that proves something; if none does, the newest.
    """
    if limits.deadline_ms is None:
        return None
    judged = [one for loop in facts.loops if (one := paced(loop, limits.deadline_ms, limits.max_miss_rate))]
    proving = (one for one in judged if one.loop.error or one.judged.verdict != "not proven")
    return next(proving, judged[0] if judged else None)


@dataclass(frozen=True)
class Judgment:
    """One variant, held against the limits.

    Attributes:
        facts: The variant.
        reached: How far it came: one of the constants above.
        why_not: Why it is not acceptable, or empty.
        missed: Share of the control loop's deadlines that it missed: 0 without a loop, 1 for one that did not run.
    """

    facts: Facts
    reached: int
    why_not: str = ""
    missed: float = 0.0

    @property
    def p50_ms(self) -> float:
        """Its median latency; infinity if it was not measured."""
        return math.inf if self.facts.p50_ms is None else self.facts.p50_ms


@dataclass(frozen=True)
class Decision:
    """What was decided, and what of each variant.

    Attributes:
        limits: What was asked for.
        judgments: One a variant, in the order in which they were given.
    """

    limits: Limits
    judgments: tuple[Judgment, ...]

    @property
    def acceptable(self) -> list[Judgment]:
        """Those that keep all limits, the fastest first."""
        return sorted((j for j in self.judgments if j.reached == ACCEPTED), key=lambda j: (j.p50_ms, j.facts.variant))

    @property
    def chosen(self) -> Facts | None:
        """The variant to ship, or None."""
        return next((judgment.facts for judgment in self.acceptable), None)

    @property
    def ties(self) -> tuple[str, ...]:
        """The acceptable variants that are not shown to take longer than the chosen one, the fastest first.

        None where the chosen one had too few starts to tell; nor is one that had too few itself among them.
        """
        told = [j.facts for j in self.acceptable if len(j.facts.starts_ms) >= MIN_STARTS]
        if not told or told[0] is not self.chosen:
            return ()
        longer = shown_longer([facts.starts_ms for facts in told[1:]], told[0].starts_ms)
        return tuple(facts.variant for facts, shown in zip(told[1:], longer, strict=True) if not shown)

    @property
    def nearest(self) -> Judgment | None:
        """The one that came furthest; of those that came equally far, the most punctual, then the fastest one."""
        order = sorted(self.judgments, key=lambda j: (-j.reached, j.missed, j.p50_ms, j.facts.variant))
        return next(iter(order), None)


def decide(variants: Sequence[Facts], limits: Limits, reference: str, reward: RewardScale | None) -> Decision:
    """Hold variants against limits, by the rule that this module describes.

    Args:
        variants: What is known of each.
        limits: What each must keep.
        reference: The variant that the others are compared with.
        reward: The scale of returns, or None.
    """
    return Decision(limits, tuple(judge(facts, limits, reference, reward) for facts in variants))


def judge(facts: Facts, limits: Limits, reference: str, reward: RewardScale | None) -> Judgment:
    """Hold one variant against the limits."""

    def fails(condition: int, why: str) -> Judgment:
        return Judgment(facts, condition, why, decided.share if (decided := deciding(facts, limits)) else 0.0)

    if facts.status in ("failed", "unavailable"):
        return fails(RUNS, f"{facts.status}: {facts.reason}")
    if facts.cannot_run:
        return fails(RUNS, facts.cannot_run)
    if facts.elsewhere:
        return fails(VERIFIED, "known from another machine only; that is inherited, not believed")
    if facts.status == "built":
        return fails(VERIFIED, facts.reason or "not verified on this machine: run xfer verify")
    by_recordings = on_recordings(facts, limits)
    if facts.status == "provisional" and not (limits.allow_provisional or by_recordings):
        option = "--on-recordings" if facts.agrees_on_recordings else "--allow-provisional"
        return fails(VERIFIED, f"provisional: {facts.reason or 'too few episodes'} ({option} takes it)")
    if facts.status not in ("verified", "provisional"):
        return fails(VERIFIED, f"{facts.status}: {facts.reason}")
    drop = 0.0 if by_recordings else reward_drop(facts, reference, reward)
    if drop is None:
        return fails(REWARD, f"its reward was not compared with {table.short(reference)}'s")
    if drop > limits.max_reward_drop:
        return fails(REWARD, f"may lose {drop:.2%} of the reward, {limits.max_reward_drop:.2%} is allowed")
    if facts.p50_ms is None:
        how = f" with {facts.conditions}" if facts.conditions.threads is not None else ""
        return fails(MEASURED, f"not measured on this machine{how}: run xfer bench")
    late = why_late(facts, limits)
    return fails(DEADLINE, late) if late else Judgment(facts, ACCEPTED)


def on_recordings(facts: Facts, limits: Limits) -> bool:
    """Whether it is its agreement on recordings that makes a variant acceptable."""
    return facts.status == "provisional" and facts.agrees_on_recordings and limits.on_recordings


def reward_drop(facts: Facts, reference: str, reward: RewardScale | None) -> float | None:
    """Return the loss of reward that counts, as a share of the reward's span; None if it is unknown."""
    span = reward.span if reward is not None else None
    if facts.trials_margin is not None:
        span = facts.trials_margin / MARGIN
    if facts.reward_interval is None or facts.reward_delta is None or span is None:
        return 0.0 if facts.variant == reference else None
    change = facts.reward_delta if facts.status == "provisional" else facts.reward_interval[0]
    return max(0.0, -change / span)


def why_late(facts: Facts, limits: Limits) -> str:
    """Return why a measured variant may miss a deadline, or an empty string."""
    deadline_ms, decided = limits.deadline_ms, deciding(facts, limits)
    if deadline_ms is None:
        return ""
    if decided is not None:
        loop, judged = decided.loop, decided.judged
        if loop.error or not loop.ticks:
            return f"did not finish its control loop: {loop.error or 'no ticks'}"
        if judged.verdict == "kept":
            return ""
        missed = f"missed {decided} of {deadline_ms:g} ms in the control loop at {loop.rate_hz:g} Hz"
        if judged.verdict == "missed":
            return missed
        return f"{missed} and {unproven(judged, limits.max_miss_rate)}"
    if facts.p99_upper_ms is None:
        return f"{facts.samples:,} calls were in too few turns for a bound of p99: run xfer bench without --quick"
    if facts.p99_upper_ms > deadline_ms:
        return f"p99 may be {table.milliseconds(facts.p99_upper_ms)}, later than {deadline_ms:g} ms"
    return ""


def unproven(judged: Judged, max_miss_rate: float) -> str:
    """Say why a loop does not prove that a deadline is kept, and what would."""
    rate = f"up to {table.share(judged.upper)} may be missed, {table.share(max_miss_rate)} is allowed"
    more = "no number of ticks" if judged.more is None else f"{judged.more:,} more ticks without a miss"
    return f"is not proven to keep it: {rate}; {more} would prove it"
