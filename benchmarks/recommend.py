"""What ``xfer recommend`` does: name the fastest variant that holds, by this machine's own records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import table
from export import targets
from export.bundle import records
from export.bundle.reader import Bundle
from export.bundle.records import Latency, Record, Verification
from export.targets import BASELINE, Variant
from xfer.commands import Common
from xfer.errors import UsageError, XferError
from xfer.spec import RewardScale


@dataclass(kw_only=True)
class Args(Common):
    """Name the fastest variant of a bundle that keeps a deadline and loses little reward, or fail.

    The deadline is held against the upper 99 % bound of p99 that xfer bench measured on this machine, the
    drop against the 95 % bound that xfer verify recorded on it. Other machines' records are not believed.

    Example commands:
      xfer recommend cartpole.bundle --deadline-ms 20
      xfer recommend cartpole.bundle --deadline-ms 5 --max-reward-drop 0.01 --allow-provisional
    """

    bundle: tyro.conf.Positional[Path]
    """The bundle's folder."""
    deadline_ms: float | None = None
    """Longest time from raw frame to action that is acceptable, in milliseconds. Default: one period of the
    policy's control rate."""
    max_reward_drop: float = 0.02
    """Largest acceptable loss, as a share of the reference return less the random return."""
    allow_provisional: bool = False
    """Also take variants that look clean on too few episodes for a proof."""


@dataclass(frozen=True)
class Limits:
    """What was asked for; see ``Args``."""

    deadline_ms: float
    max_reward_drop: float
    allow_provisional: bool


@dataclass(frozen=True)
class Judgement:
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


def main(args: Args) -> dict[str, Any]:
    """Run the command.

    Returns:
        What ``--json`` prints; see the design.

    Raises:
        UsageError: On a deadline or drop that is no number above zero.
        BundleError: If the bundle or this machine's records are damaged.
        XferError: If no variant holds.
    """
    if not 0 <= args.max_reward_drop <= 1:
        raise UsageError(f"--max-reward-drop {args.max_reward_drop:g} is a share: use 0 to 1, as 0.02.")
    bundle = Bundle(args.bundle)
    deadline = 1000 / bundle.spec.control_hz if args.deadline_ms is None else args.deadline_ms
    if not deadline > 0:
        raise UsageError(f"--deadline-ms {deadline:g} is not above zero.")
    limits = Limits(deadline, args.max_reward_drop, args.allow_provisional)
    judgements = judge_all(bundle, limits)
    holding = sorted((j for j in judgements if not j.why_not), key=_p50)
    _show(judgements, holding[0].variant if holding else "")
    if not holding:
        raise XferError(_none_holds(judgements, limits))
    best = holding[0]
    assert best.latency is not None
    why = _why(best, holding, limits)
    _say(f"{best.variant}: {why}")
    return {
        "variant": best.variant,
        "p50_ms": best.latency.p50_ms,
        "speedup": best.latency.speedup,
        "reward_delta": best.verification.reward_delta if best.verification else None,
        "why": why,
    }


def judge_all(bundle: Bundle, limits: Limits) -> list[Judgement]:
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
        found.append(Judgement(name, why_not, record))
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


def _p50(judgement: Judgement) -> float:
    latency = judgement.latency
    return latency.p50_ms if latency and latency.p50_ms is not None else float("inf")


def _why(best: Judgement, holding: list[Judgement], limits: Limits) -> str:
    latency, verification = best.latency, best.verification
    assert latency is not None
    assert verification is not None
    others = f"the fastest of {len(holding)} variants that hold" if len(holding) > 1 else "the only one that holds"
    bound = ""
    if verification.reward_interval is not None and verification.reward_delta is not None:
        bound = f", and a change in return of at least {verification.reward_interval[0]:+.2f}"
    return (
        f"{others}: {verification.status}, p50 {table.milliseconds(latency.p50_ms)}, p99 at most"
        f" {table.milliseconds(latency.p99_upper_ms)} of {limits.deadline_ms:g} ms{bound}."
    )


def _none_holds(judgements: list[Judgement], limits: Limits) -> str:
    if not any(j.record for j in judgements):
        return (
            "No variant holds: run `xfer verify` and `xfer bench` on this machine first (records from other"
            " machines are inherited, not believed)."
        )
    # The one that came furthest is the one that the reader can do something about.
    nearest = min(judgements, key=lambda j: (j.verification is None, j.latency is None, _p50(j)))
    return f"No variant holds {limits.deadline_ms:g} ms. {nearest.variant}: {nearest.why_not}."


def _show(judgements: list[Judgement], chosen: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table("Variant", "p50", "p99 at most", "Why not", header_style="bold")
    for j in judgements:
        p50, p99 = (j.latency.p50_ms, j.latency.p99_upper_ms) if j.latency else (None, None)
        verdict = Text("recommended", "bold green") if j.variant == chosen else Text(j.why_not or "slower")
        grid.add_row(Text(j.variant), table.milliseconds(p50), table.milliseconds(p99), verdict)
    Console().print(grid)


def _say(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(text, "bold"))
