"""The conclusion: which variant to ship and why, which deadlines were missed, and what to keep in mind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measure.interference import LIMIT
from benchmarks.measure.protocol import Measurement
from benchmarks.report import decision, figures, table
from benchmarks.report.data import Report
from benchmarks.report.decision import DEADLINE, VERIFIED, Decision, Paced
from benchmarks.report.facts import Facts, of_rows
from benchmarks.report.figures import InterferenceFigures, LoopFigures
from benchmarks.stats.bootstrap import RewardSummary
from benchmarks.stats.miss_rate import Judged
from benchmarks.stats.percentiles import TOLERANCE, drift
from benchmarks.stats.starts import shown_longer

MAX_NAMES = 3
"""How many rows are named in a sentence; more are counted."""


@dataclass(frozen=True)
class Caveat:
    """What a reader must know before relying on a figure.

    Attributes:
        mark: One word: ``partial``, ``quick``, ``provisional``, ``disturbed``, ``unstable``, ``drifting`` or
            ``slower``.
        text: The sentence behind it.
    """

    mark: str
    text: str


@dataclass(frozen=True)
class Findings:
    """What follows from the raw data.

    Attributes:
        ship: The variant to ship, or empty.
        headline: Which variant to ship, and why.
        misses: Which deadlines were missed, or are not proven to be kept, a sentence a variant.
        caveats: What qualifies the whole report, the gravest first.
        pareto_front: The verified or provisional variants that no other beats in both latency and reward, the fastest
            first.
        reward_summaries: Mean and interquartile mean of the returns of the reference and of what was compared with it.
        loops: The figures of each control loop.
        disturbances: What else ran beside each variant, where that was watched.
        ties: The acceptable variants that are not shown to be slower than the one to ship.
    """

    ship: str
    headline: str
    misses: tuple[str, ...]
    caveats: tuple[Caveat, ...]
    pareto_front: tuple[str, ...]
    reward_summaries: dict[str, RewardSummary]
    loops: tuple[LoopFigures, ...]
    disturbances: tuple[InterferenceFigures, ...]
    ties: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Headline and misses in one paragraph."""
        return " ".join([self.headline, *self.misses])


def conclude(report: Report) -> Findings:
    """Work out what follows from a report's data."""
    loops = tuple(figures.loop_figures(loop, report.limits.max_miss_rate) for loop in report.loops)
    disturbances = figures.interferences(report)
    decided = decide(report)
    points = figures.comparable(report.rows, report.reference)
    return Findings(
        ship=decided.chosen.variant if decided.chosen else "",
        headline=headline(report, decided),
        misses=tuple(misses(loops, report.limits.max_miss_rate)),
        caveats=tuple(caveats(report, decided.chosen, disturbances)),
        pareto_front=tuple(point.row.variant for point in figures.pareto_front(points)),
        reward_summaries=figures.reward_summaries(report.rows, report.reference),
        loops=loops,
        disturbances=disturbances,
        ties=decided.ties,
    )


def decide(report: Report) -> Decision:
    """Return which variant of a report to ship, under the report's own limits."""
    facts = of_rows(report.rows, report.loops)
    return decision.decide(facts, report.limits, report.reference, report.reward)


def headline(report: Report, decided: Decision) -> str:
    """Return the sentence that a reader in a hurry needs: what to ship, and why."""
    timed = sorted((j for j in decided.judgments if j.facts.p50_ms is not None), key=lambda j: j.p50_ms)
    if not timed:
        return "No variant could be measured on this machine."
    best = decided.chosen
    if best is None:
        return f"Ship nothing yet: {_nothing(decided, timed[0].facts)}"
    word = "verified" if best.status == "verified" else "provisionally verified"
    if decision.on_recordings(best, decided.limits):
        word = "in agreement on recordings"
    if best.variant.partition("@")[0] == report.reference:
        also = " and keeps the deadline" if decided.limits.deadline_ms is not None else ""
        own = table.milliseconds(best.p50_ms)
        return f"Ship {best.variant}: no variant that is {word} here{also} is faster ({own} at p50).{_ties(decided)}"
    gain = _gain(report, best)
    return f"Ship {best.variant}: the fastest variant that is {word}{_in_time(best, decided)}. {gain}{_ties(decided)}"


def _nothing(decided: Decision, fastest: Facts) -> str:
    """Say why no variant is acceptable."""
    nearest, deadline_ms = decided.nearest, decided.limits.deadline_ms
    assert nearest is not None
    name = nearest.facts.variant
    if all(j.facts.status == "built" for j in decided.judgments if j.facts.p50_ms is not None):
        own = f"{fastest.variant} is the fastest ({table.milliseconds(fastest.p50_ms)} at p50)"
        return f"{own}, but nothing is verified on this machine. Run xfer verify."
    if nearest.reached == DEADLINE:
        return f"no variant keeps {deadline_ms:g} ms. {name} came closest: {nearest.why_not}."
    if nearest.reached == VERIFIED and nearest.facts.status == "provisional":
        if nearest.facts.agrees_on_recordings:
            return f"{name} agrees on recordings, its rewards were not compared. Bench with --on-recordings to take it."
        return f"{name} is only provisional. Run xfer verify --full, or bench with --allow-provisional."
    return f"no variant keeps the limits. {name}: {nearest.why_not.rstrip('.')}."


def _in_time(best: Facts, decided: Decision) -> str:
    """Say how it keeps the deadline, where there is one."""
    deadline_ms, deciding = decided.limits.deadline_ms, decision.deciding(best, decided.limits)
    if deadline_ms is None:
        return ""
    if deciding is not None:
        return f" and {kept(deciding, deadline_ms)}"
    return f" and keeps {deadline_ms:g} ms (p99 at most {table.milliseconds(best.p99_upper_ms)})"


def _gain(report: Report, best: Facts) -> str:
    """Say how much faster than the reference it is."""
    own = f"{table.milliseconds(best.p50_ms)} at p50"
    against = next((row.baseline for row in report.rows if row.variant == best.variant), None) or report.reference
    other = next((row.p50_ms for row in report.rows if row.variant == against), None)
    if other is None or best.speedup is None:
        return f"It takes {own}."
    name = table.short(against)
    return f"It is {best.speedup:.1f} times as fast as {name}: {own} instead of {table.milliseconds(other)}."


def _ties(decided: Decision) -> str:
    """Say which acceptable variants are not shown to be slower, where there are any."""
    return f" A tie: {_named(decided.ties)} may be as fast." if decided.ties else ""


def missed(report: Report) -> list[str]:
    """Return the rows that missed the deadline on the evidence: by their control loop, else by their percentiles.

    Of a loop the bound below its rate of misses says so; without one, p99 (the median, where there is no p99). What
    could not be measured, and a loop that proves nothing, misses nothing.
    """
    limits = report.limits
    found: list[str] = []
    if limits.deadline_ms is None:
        return found
    facts = {one.variant: one for one in of_rows(report.rows, report.loops)}
    for name, one in facts.items():
        deciding, shown = decision.deciding(one, limits), next(row for row in report.rows if row.variant == name)
        if deciding is not None:
            late = deciding.judged.verdict == "missed" and deciding.loop.ticks > 0
        else:
            slow = shown.p99_ms if shown.p99_ms is not None else shown.p50_ms
            late = slow is not None and slow > limits.deadline_ms
        found += [name] * late
    return found


def kept(decided: Paced, deadline_ms: float) -> str:
    """Say how a control loop keeps a deadline."""
    where = f"of {deadline_ms:g} ms at {decided.loop.rate_hz:g} Hz"
    how = f"missed {decided} {where}" if decided.missed else f"kept all {decided.loop.ticks:,} deadlines {where}"
    return f"{how} (at most {table.share(decided.judged.upper)} missed)"


def misses(loops: Sequence[LoopFigures], max_miss_rate: float) -> list[str]:
    """Return a sentence for each variant that is not proven to keep its deadline, or could not run its loop."""
    found = []
    for loop in loops:
        deadlines = f"{loop.missed:,} of {loop.ticks:,} deadlines of {loop.deadline_ms:g} ms"
        dropped = f", {loop.dropped:,} of them dropped" if loop.dropped else ""
        judged = Judged(loop.verdict, loop.miss_rate_upper, loop.more_ticks)
        if loop.verdict == "missed" or (loop.missed and loop.error):
            found.append(f"{loop.name} missed {deadlines}{dropped}.")
        elif loop.verdict == "not proven" and loop.ticks and not loop.error:
            found.append(f"{loop.name} missed {deadlines}{dropped} and {decision.unproven(judged, max_miss_rate)}.")
        if loop.error:
            found.append(f"{loop.name} did not finish its control loop: {loop.error.rstrip('.')}.")
    return found


def caveats(report: Report, best: Facts | None, disturbances: Sequence[InterferenceFigures]) -> list[Caveat]:
    """Return what qualifies the whole report, the gravest first."""
    found = []
    if report.partial:
        found.append(Caveat("partial", f"This report is not whole: {report.partial.rstrip('.')}."))
    if report.protocol.quick:
        text = "A quick run: few samples, and too few starts to tell close variants apart."
        found.append(Caveat("quick", f"{text} Leave out --quick for figures to rely on."))
    if best is not None and best.status == "provisional" and best.variant != report.reference:
        text = f"{best.variant} looks clean, on too few episodes for a proof: xfer verify --full runs enough."
        if decision.on_recordings(best, report.limits):
            loss = f"mean action loss at most {best.recordings_bound or 0.0:.2%}"
            text = f"{best.variant} acts as {table.short(report.reference)} does in recorded episodes ({loss})."
            text += " Its rewards were not compared: xfer verify --returns takes trials."
        found.append(Caveat("provisional", text))
    disturbed = [one for one in disturbances if one.disturbed]
    if disturbed:
        found.append(Caveat("disturbed", _disturbed(disturbed)))
    loops = [loop for loop in report.loops if loop.disturbed]
    if loops:
        taken = sum(loop.disturbed for loop in loops), sum(len(loop.segments) for loop in loops)
        where = f"{taken[0]} of {taken[1]} segments of the control loops of {_named([loop.name for loop in loops])}"
        found.append(Caveat("disturbed", f"Something else ran in {where}: a deadline may have been missed for it."))
    # Of the reference, whose time alone can be unstable, the sentence on drift says it.
    unstable = [row.variant for row in report.rows if row.stable is False and row.variant != report.reference]
    if unstable:
        figure = "speed-up" if any(row.speedup is not None for row in report.rows) else "time"
        moved = f"The {figure} of {_named(unstable)} moved by more than {table.share(TOLERANCE)} during the run."
        found.append(Caveat("unstable", moved))
    name = report.reference
    baseline = next((one.rounds for one in report.measurements if one.name == name and not one.error), ())
    if TOLERANCE < (drifted := drift(baseline)) < math.inf:
        moved = f"{table.short(name)}'s time moved by {table.share(drifted)} during the run"
        what = f"The machine changed its speed: {moved}."
        found.append(Caveat("drifting", f"{what} Speed-ups are taken within rounds; times are of this run."))
    return found + [Caveat("slower", sentence) for sentence in slower_than_fp32(report.measurements)]


def slower_than_fp32(measurements: Sequence[Measurement]) -> list[str]:
    """Return a sentence for each variant in a lower precision that is slower here than its target's fp32.

    The starts have to show it: within one, the place of a process in memory moves all rounds alike.
    """
    known = {one.name: one for one in measurements if one.rounds and not one.error}
    found = []
    for one in measurements:
        build = one.variant.partition("@")[0]
        exact = f"{build.partition('-')[0]}-fp32"
        sibling = one.name.replace(build, exact, 1)
        if build == exact or one.name not in known or sibling not in known:
            continue
        times, exact_times = one.start_medians(), known[sibling].start_medians()
        if shown_longer([times], exact_times)[0]:
            speed = np.median(exact_times) / np.median(times)
            found.append(f"{one.name} is slower than {sibling} here: {speed:.2f} times its speed.")
    return found


def _named(names: Sequence[str]) -> str:
    """Name a few, and count many: each row carries its mark anyway."""
    return ", ".join(names) if len(names) <= MAX_NAMES else f"{len(names)} rows"


def _disturbed(those: Sequence[InterferenceFigures]) -> str:
    """Say how much of the measurement was disturbed, and by how much at worst."""
    disturbed, rounds = sum(one.disturbed for one in those), sum(one.rounds for one in those)
    others, steal, throttled = (max(getattr(one, name) for one in those) for name in ("others", "steal", "throttled"))
    waited, slowed = max(one.waited or 0.0 for one in those), max(one.slowed for one in those)
    causes = {
        f"other processes took up to {table.share(others)} of the cores": others,
        f"the hypervisor took up to {table.share(steal)} of the cores": steal,
        f"a variant waited for a core for up to {table.share(waited)} of a round": waited,
        f"the container's quota was used up for up to {table.share(throttled)} of a round": throttled,
    }
    worst = max(causes, key=lambda words: causes[words])
    found = [worst] if causes[worst] > LIMIT else []
    found += [f"the reference kernel was slowed in {slowed}, by what no counter shows"] if slowed else []
    where = f"{disturbed} of {rounds} rounds of {_named([one.name for one in those])}"
    return f"Something else ran in {where}: {'; '.join(found)}."
