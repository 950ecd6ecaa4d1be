"""Which variant to ship: one judge for the report and for ``xfer recommend``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import table
from benchmarks.report.figures import LoopFigures
from benchmarks.report.rows import Row
from export import targets
from export.bundle import records
from export.bundle.reader import Bundle
from export.bundle.records import PROVEN, Latency, Record, Verification
from export.targets import BASELINE, Variant
from xfer.spec import RewardScale


@dataclass(frozen=True)
class Limits:
    """What was asked for; see ``Args``."""

    deadline_ms: float
    max_reward_drop: float
    allow_provisional: bool


@dataclass(frozen=True)
class Judgment:
    """One variant, held against what was asked for.

    Attributes:
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE.
        why_not: Why it does not hold, or empty.
        record: What this machine knows of it.
    """

    variant: str
    why_not: str
    record: Record | None

    @property
    def latency(self) -> Latency | None:
        """Its figures on this machine."""
        return self.record.latency if self.record else None

    @property
    def verification(self) -> Verification | None:
        """Its verdict on this machine."""
        return self.record.verification if self.record else None


def judge_all(bundle: Bundle, limits: Limits) -> list[Judgment]:
    """Hold every build, and every other variant that has a record here, against what was asked for."""
    known = records.load(bundle)
    elsewhere = {name for machine in records.inherited(bundle) for name in machine.records}
    found = []
    for name in dict.fromkeys([*bundle.builds, *known]):
        build, record = bundle.builds[name.partition("@")[0]], known.get(name)
        if build.status != "built":
            why_not = f"{build.status}: {build.reason}"
        elif record is None and name in elsewhere:
            why_not = "known from another machine only; that is inherited, not believed"
        elif record is None and (reason := _cannot_run(name)) is not None:
            why_not = build.not_run(reason)
        else:
            why_not = judge(name, record, bundle.spec.reward, limits)
        found.append(Judgment(name, why_not, record))
    return found


def _cannot_run(name: str) -> str | None:
    variant = Variant.parse(name)
    return targets.load(variant.target).runnable(variant.place)


def judge(name: str, record: Record | None, reward: RewardScale | None, limits: Limits) -> str:
    """Return why a built variant does not hold, or an empty string."""
    verification = record.verification if record else None
    latency = record.latency if record else None
    if verification is None:
        return "not verified on this machine: run xfer verify"
    if verification.status == "provisional" and not limits.allow_provisional:
        return f"provisional: {verification.reason or 'too few episodes'} (--allow-provisional takes it)"
    if verification.status not in ("verified", "provisional"):
        return f"{verification.status}: {verification.reason}"
    drop = reward_drop(name, verification, reward)
    if drop is None:
        return "its reward was not compared with eager's"
    if drop > limits.max_reward_drop:
        return f"may lose {drop:.2%} of the reward span, {limits.max_reward_drop:.2%} is allowed"
    if latency is None:
        return "not measured on this machine: run xfer bench"
    if latency.p99_upper_ms is None:
        return f"{latency.samples} calls are too few for p99: run xfer bench without --quick"
    if latency.p99_upper_ms > limits.deadline_ms:
        return f"p99 may be {table.milliseconds(latency.p99_upper_ms)}, later than {limits.deadline_ms:g} ms"
    return ""


def reward_drop(name: str, verification: Verification, reward: RewardScale | None) -> float | None:
    """Return the loss that the record cannot rule out, as a share of the reward span; None if unknown.

    Of a provisional variant, which is here by the user's wish, it is the loss that was seen: a bound over a few
    episodes rules out little by nature.
    """
    if verification.reward_interval is None or verification.reward_delta is None or reward is None:
        # Eager is what the others are compared with.
        return 0.0 if name == BASELINE else None
    provisional = verification.status == "provisional"
    change = verification.reward_delta if provisional else verification.reward_interval[0]
    return max(0.0, -change / reward.span)


def _p50(judgment: Judgment) -> float:
    latency = judgment.latency
    return latency.p50_ms if latency and latency.p50_ms is not None else float("inf")


def choose(rows: Sequence[Row], loops: Sequence[LoopFigures] = ()) -> Row | None:
    """Return the row to ship, or None.

    It is the fastest variant (at p50) that is verified, or provisionally so, and that kept every deadline of the
    control loop, if one was run.
    """
    kept = [loop.name for loop in loops if loop.kept]
    proven = (row for row in _timed(rows) if row["status"] in PROVEN)
    return next((row for row in proven if not loops or row["variant"] in kept), None)


def _timed(rows: Sequence[Row]) -> list[Row]:
    """The policy's own graphs that were measured, the fastest first."""
    timed = [row for row in rows if row["p50_ms"] is not None and not row["whole_backbone"]]
    return sorted(timed, key=lambda row: row["p50_ms"])
