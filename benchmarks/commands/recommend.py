"""What ``xfer recommend`` does: name the fastest variant that keeps the limits, by this machine's own records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.report import decision, table, terminal
from benchmarks.report.conclusion import kept
from benchmarks.report.decision import Conditions, Decision, Facts, Limits
from export.bundle.reader import Bundle
from xfer.commands import Common
from xfer.errors import UsageError, XferError


@dataclass(kw_only=True)
class Args(Common):
    """Name the fastest variant of a bundle that loses little reward and keeps a deadline, or fail.

    The drop in reward is held against the 95 % bound that xfer verify recorded on a machine of this kind; without an
    environment, trials (xfer verify --returns) or recordings (--on-recordings) take the place of rewards. The deadline
    is held against a control loop (xfer bench --rate-hz), if one was run with these threads, else against the upper
    99 % bound of p99. Variants are held against each other with equal threads and spinning, by default those of the
    last bench; of several benches the strictest counts. Other machines' latencies are not believed, nor are other
    kinds' verdicts.

    Example commands:
      xfer recommend cartpole.bundle
      xfer recommend cartpole.bundle --deadline-ms 20
      xfer recommend cartpole.bundle --deadline-ms 5 --max-reward-drop 0.01 --allow-provisional
      xfer recommend robot.bundle --on-recordings
    """

    bundle: tyro.conf.Positional[Path]
    """The bundle's folder."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that xfer verify and xfer bench were told to write records to (default: in the bundle)."""
    deadline_ms: float | None = None
    """Longest acceptable time from raw frame to action, in milliseconds, as 20 for a control rate of 50 Hz. Default:
    no deadline."""
    max_reward_drop: float = Limits.max_reward_drop
    """Largest acceptable loss, as a share of the reference return less the random return."""
    max_miss_rate: float = Limits.max_miss_rate
    """Largest acceptable share of the control loop's ticks that miss the deadline, held against its 95 % bound."""
    rate_hz: float | None = None
    """Rate of the control loop that counts. Default: that of the last one."""
    threads: int | None = None
    """Threads that the variants will have. Default: as in the last bench."""
    spin: bool | None = None
    """Whether idle threads will spin between calls. Default: as in the last bench."""
    allow_provisional: bool = False
    """Also take variants that look clean on too few episodes for a proof."""
    on_recordings: bool = False
    """Also take variants that were shown to act as the reference does in recorded episodes, as where there is no
    environment; their rewards were not compared."""


def main(args: Args) -> dict[str, Any]:
    """Run the command.

    Returns:
        What ``--json`` prints.

    Raises:
        UsageError: On a deadline or drop that means nothing.
        BundleError: If the bundle or this machine's records are damaged.
        XferError: If no variant keeps the limits.
    """
    allowed = args.allow_provisional, args.on_recordings
    limits = Limits(args.deadline_ms, args.max_reward_drop, *allowed, args.max_miss_rate).check()
    asked = Conditions(args.threads, args.spin, args.rate_hz)
    if args.records is not None and not args.records.is_dir():
        raise UsageError(f"--records {args.records} is no folder. xfer verify and xfer bench make it.")
    bundle = Bundle(args.bundle, args.records)
    decided = decision.decide(decision.of_bundle(bundle, asked), limits, bundle.reference, bundle.spec.reward)
    show(decided)
    return answer(decided)


def answer(decided: Decision) -> dict[str, Any]:
    """Print what is recommended and why, and return what ``--json`` prints.

    Raises:
        XferError: If no variant keeps the limits.
    """
    from rich.console import Console
    from rich.text import Text

    best = decided.chosen
    if best is None:
        raise XferError(why_none(decided))
    why = why_best(best, decided)
    Console().print(Text(f"{best.variant}: {why}", "bold"))
    return {
        "variant": best.variant,
        "p50_ms": best.p50_ms,
        "speedup": best.speedup,
        "reward_delta": best.reward_delta,
        "why": why,
        "ties": list(decided.ties),
        "conditions": conditions(best, decided.limits),
    }


def why_best(best: Facts, decided: Decision) -> str:
    """Say why the best variant is the best."""
    count, deadline_ms, deciding = len(decided.acceptable), decided.limits.deadline_ms, best.deciding(decided.limits)
    words = [f"the fastest of {count} variants that keep the limits" if count > 1 else "the only one that does"]
    words[0] += f": {best.status}, p50 {table.milliseconds(best.p50_ms)}"
    if deadline_ms is not None and deciding is not None:
        words.append(kept(deciding, deadline_ms))
    elif deadline_ms is not None:
        words.append(f"p99 at most {table.milliseconds(best.p99_upper_ms)} of {deadline_ms:g} ms")
    if decision.on_recordings(best, decided.limits):
        words.append(f"in agreement on recordings (mean action loss at most {best.recordings_bound or 0.0:.2%})")
        words.append("its rewards were not compared")
    elif best.reward_interval is not None and best.status == "verified":
        words.append(f"a change in return of at least {best.reward_interval[0]:+.2f}")
    elif best.reward_delta is not None:
        words.append(f"a change in return of {best.reward_delta:+.2f} so far")
    ties = f" A tie: {', '.join(decided.ties)} may be as fast." if decided.ties else ""
    return f"{', '.join(words)}. Measured {in_words(best, decided.limits)}.{ties}"


def conditions(facts: Facts, limits: Limits) -> dict[str, Any]:
    """Return under which conditions a variant was judged, as plain values; a deadline decides which scenario counts."""
    decided = facts.deciding(limits)
    common = {"threads": facts.conditions.threads, "spin": facts.conditions.spin}
    if decided is not None:
        loop = decided.loop
        return {
            "scenario": "paced",
            "rate_hz": loop.rate_hz,
            **common,
            "protocol": "quick" if loop.quick else "default",
            "measured": loop.measured,
            "disturbed": loop.disturbed_segments > 0,
            "stable": None,
            "ticks": loop.ticks,
            "missed": decided.missed,
            "miss_rate_upper": decided.judged.upper,
            "late": loop.late,
            "idle_cores": loop.idle_cores,
        }
    return {
        "scenario": "back to back",
        "rate_hz": None,
        **common,
        "protocol": facts.protocol,
        "measured": facts.measured,
        "disturbed": facts.disturbed_rounds > 0,
        "stable": facts.stable,
    }


def in_words(facts: Facts, limits: Limits) -> str:
    """Say under which conditions a variant was judged."""
    found, decided = conditions(facts, limits), facts.deciding(limits)
    how = f"paced at {found['rate_hz']:g} Hz" if decided is not None else "back to back"
    words = [how, *([str(facts.conditions)] if facts.conditions.threads is not None else [])]
    words.append({"quick": "a quick bench", "strict": "a strict bench"}.get(found["protocol"], "a default bench"))
    if found["measured"]:
        words[-1] += f" of {found['measured'][:16].replace('T', ' ')} UTC"
    loop = decided.loop if decided is not None else None
    if loop is not None and loop.idle_cores is not None:
        words.append(f"{loop.idle_cores:.2g} cores busy between ticks")
    if loop is not None and loop.segments:
        words.append(_disturbed(loop.disturbed_segments, loop.segments, "segments"))
    elif decided is None and facts.rounds:
        words.append(_disturbed(facts.disturbed_rounds, facts.rounds, "rounds"))
    return ", ".join([*words, *(["unstable"] if found["stable"] is False else [])])


def _disturbed(disturbed: int, count: int, what: str) -> str:
    return f"disturbed in {disturbed} of {count} {what}" if disturbed else "undisturbed"


def why_none(decided: Decision) -> str:
    """Say why no variant is recommended, and what can be done about it."""
    nearest = decided.nearest
    if nearest is None or (nearest.facts.status == "built" and not nearest.facts.cannot_run):
        return (
            "No variant keeps the limits: run `xfer verify` and `xfer bench` on this machine first (records from other"
            " machines are inherited, not believed)."
        )
    return f"No variant keeps the limits. {nearest.facts.variant}: {nearest.why_not}."


def show(decided: Decision) -> None:
    """Print one line a variant, and each reason against one of them once."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    grid = terminal.grid_of("Variant", "Status", "p50 ms", "p99 at most", "", left=2)
    reasons: dict[str, list[str]] = {}
    for j in decided.judgments:
        facts, best = j.facts, decided.chosen
        tied = "may be as fast" if facts.variant in decided.ties else "slower"
        mark = "no" if j.why_not else "recommended" if facts == best else tied
        style = "bold green" if facts == best else "red" if j.why_not else ""
        p50, p99 = terminal.number(facts.p50_ms), terminal.number(facts.p99_upper_ms)
        grid.add_row(Text(facts.variant), Text(facts.status), p50, p99, Text(mark, style))
        if j.why_not:
            reasons.setdefault(j.why_not, []).append(facts.variant)
    console.print(grid)
    terminal.print_reasons(((", ".join(names), reason) for reason, names in reasons.items()), console)
    console.print(Text("limits: ", "bold") + Text(str(decided.limits)))
