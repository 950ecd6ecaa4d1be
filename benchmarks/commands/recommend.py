"""What ``xfer recommend`` does: name the fastest variant that holds, by this machine's own records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.report import table
from benchmarks.report.decision import Judgment, Limits, _p50, judge_all
from export.bundle.reader import Bundle
from xfer.commands import Common
from xfer.errors import UsageError, XferError


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
    judgments = judge_all(bundle, limits)
    holding = sorted((j for j in judgments if not j.why_not), key=_p50)
    _show(judgments, holding[0].variant if holding else "")
    if not holding:
        raise XferError(_none_holds(judgments, limits))
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


def _why(best: Judgment, holding: list[Judgment], limits: Limits) -> str:
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


def _none_holds(judgments: list[Judgment], limits: Limits) -> str:
    if not any(j.record for j in judgments):
        return (
            "No variant holds: run `xfer verify` and `xfer bench` on this machine first (records from other"
            " machines are inherited, not believed)."
        )
    # The one that came furthest is the one that the reader can do something about.
    nearest = min(judgments, key=lambda j: (j.verification is None, j.latency is None, _p50(j)))
    return f"No variant holds {limits.deadline_ms:g} ms. {nearest.variant}: {nearest.why_not}."


def _show(judgments: list[Judgment], chosen: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table("Variant", "p50", "p99 at most", "Why not", header_style="bold")
    for j in judgments:
        p50, p99 = (j.latency.p50_ms, j.latency.p99_upper_ms) if j.latency else (None, None)
        verdict = Text("recommended", "bold green") if j.variant == chosen else Text(j.why_not or "slower")
        grid.add_row(Text(j.variant), table.milliseconds(p50), table.milliseconds(p99), verdict)
    Console().print(grid)


def _say(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(text, "bold"))
