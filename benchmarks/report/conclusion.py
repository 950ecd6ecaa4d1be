"""The conclusion: which variant to ship and why, which deadlines were missed, and what to keep in mind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.report import figures, table
from benchmarks.report.decision import _timed, choose
from benchmarks.report.figures import InterferenceFigures, LoopFigures
from benchmarks.report.rows import Row
from benchmarks.stats.bootstrap import RewardSummary
from benchmarks.stats.percentiles import TOLERANCE, drift, speedups
from export.bundle.records import PROVEN
from export.targets import BASELINE

if TYPE_CHECKING:
    from benchmarks.measure.protocol import Measurement
    from benchmarks.report.data import Report

QUICK = "quick run: few samples"

FEW = 3


@dataclass(frozen=True)
class Caveat:
    """What a reader must know before believing a figure.

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
        misses: Which deadlines were missed, a sentence a variant.
        caveats: What qualifies the whole report, the gravest first.
        pareto_front: The proven variants that no other one beats in both latency and reward, the fastest first.
        reward_summaries: Mean and interquartile mean of the returns of eager and of what was compared with it.
        loops: The figures of each control loop.
        disturbances: What went on beside each variant, where that was watched.
    """

    ship: str
    headline: str
    misses: tuple[str, ...]
    caveats: tuple[Caveat, ...]
    pareto_front: tuple[str, ...]
    reward_summaries: dict[str, RewardSummary]
    loops: tuple[LoopFigures, ...]
    disturbances: tuple[InterferenceFigures, ...]

    @property
    def verdict(self) -> str:
        """Headline and misses in one paragraph."""
        return " ".join([self.headline, *self.misses])


def conclude(report: Report) -> Findings:
    """Work out what follows from a report's data."""
    loops = tuple(figures.loop_figures(loop) for loop in report.loops)
    watched = [m for m in report.measurements if m.disturbances]
    disturbances = tuple(figures.interference_figures(measurement) for measurement in watched)
    best = choose(report.rows, loops)
    return Findings(
        ship=best["variant"] if best else "",
        headline=headline(report.rows, loops),
        misses=tuple(misses(loops)),
        caveats=tuple(caveats(report, best, disturbances)),
        pareto_front=tuple(row["variant"] for row in figures.pareto_front(report.rows)),
        reward_summaries=figures.reward_summaries(report.rows),
        loops=loops,
        disturbances=disturbances,
    )


def headline(rows: Sequence[Row], loops: Sequence[LoopFigures] = ()) -> str:
    """Return the sentence that a reader in a hurry needs: what to ship, and why."""
    timed = _timed(rows)
    if not timed:
        return "No variant could be measured on this machine."
    proven = [row for row in timed if row["status"] in PROVEN]
    if not proven:
        fastest = f"{timed[0]['variant']} is the fastest ({table.milliseconds(timed[0]['p50_ms'])} at p50)"
        return f"Ship nothing yet: {fastest}, but nothing is verified on this machine. Run xfer verify."
    best = choose(rows, loops)
    if best is None:
        return _none_kept(proven, loops)
    loop = next((loop for loop in loops if loop.name == best["variant"]), None)
    if best["variant"].startswith("eager"):
        also = " and kept its deadlines" if loop else ""
        p50 = table.milliseconds(best["p50_ms"])
        return f"Ship {best['variant']}: no variant that is verified here{also} is faster ({p50} at p50)."
    word = "verified" if best["status"] == "verified" else "provisionally verified"
    also = f" and kept all {loop.ticks:,} deadlines of {loop.deadline_ms:g} ms" if loop else ""
    return f"Ship {best['variant']}: the fastest variant that is {word}{also}. {_gain(best, timed)}"


def _gain(best: Row, timed: Sequence[Row]) -> str:
    """Say how much faster than eager it is."""
    own = f"{table.milliseconds(best['p50_ms'])} at p50"
    eager = next((row for row in timed if row["variant"] == BASELINE), None)
    if eager is None or best["speedup"] is None:
        return f"It takes {own}."
    instead = table.milliseconds(eager["p50_ms"])
    return f"It is {best['speedup']:.1f} times as fast as eager: {own} instead of {instead}."


def _none_kept(proven: Sequence[Row], loops: Sequence[LoopFigures]) -> str:
    """Say which proven variant came closest to its deadlines, where none kept all of them."""
    names = [row["variant"] for row in proven]
    ran = [loop for loop in loops if loop.ticks and not loop.error and loop.name in names]
    if not ran:
        return "Ship nothing yet: no verified variant has run in the control loop."
    nearest = min(ran, key=lambda loop: (loop.missed / loop.ticks, names.index(loop.name)))
    return (
        f"Ship nothing at {nearest.rate_hz:g} Hz yet: no verified variant that ran kept every deadline of"
        f" {nearest.deadline_ms:g} ms, and {nearest.name} came closest."
    )


def misses(loops: Sequence[LoopFigures]) -> list[str]:
    """Return a sentence for each variant that missed a deadline, or could not run its loop to the end."""
    found = []
    for loop in loops:
        if loop.missed:
            deadlines = f"{loop.missed:,} of {loop.ticks:,} deadlines of {loop.deadline_ms:g} ms"
            found.append(f"{loop.name} missed {deadlines}.")
        if loop.error:
            found.append(f"{loop.name} did not finish its control loop: {loop.error.rstrip('.')}.")
    return found


def caveats(report: Report, best: Row | None, disturbances: Sequence[InterferenceFigures]) -> list[Caveat]:
    """Return what qualifies the whole report, the gravest first."""
    found = []
    if report.partial:
        found.append(Caveat("partial", f"This report is not whole: {report.partial.rstrip('.')}."))
    if report.protocol.quick:
        found.append(Caveat("quick", f"A {QUICK}. Leave out --quick for figures to rely on."))
    if best is not None and best["status"] == "provisional":
        few = f"{best['variant']} looks clean, on too few episodes for a proof: xfer verify --full runs enough."
        found.append(Caveat("provisional", few))
    disturbed = [one for one in disturbances if one.disturbed]
    if disturbed:
        found.append(Caveat("disturbed", _disturbed(disturbed)))
    unstable = [row["variant"] for row in report.rows if row["stable"] is False]
    if unstable:
        figure = "speed-up" if any(row["speedup"] is not None for row in report.rows) else "time"
        moved = f"The {figure} of {_names(unstable)} moved by more than {table.share(TOLERANCE)} during the run."
        found.append(Caveat("unstable", moved))
    baseline = next((one.rounds for one in report.measurements if one.name == BASELINE and not one.error), ())
    if TOLERANCE < (drifted := drift(baseline)) < math.inf:
        what = f"The machine changed its speed: eager's time moved by {table.share(drifted)} during the run."
        found.append(Caveat("drifting", f"{what} Speed-ups are taken within rounds; times are of this run."))
    return found + [Caveat("slower", sentence) for sentence in slower_than_fp32(report.measurements)]


def slower_than_fp32(measurements: Sequence[Measurement]) -> list[str]:
    """Return a sentence for each variant in a lower precision that is slower here than its target's fp32.

    Medians are compared within rounds; the whole 95 % interval of the median ratio has to say so (order statistics:
    Conover 1999, "Practical Nonparametric Statistics", section 3.2).
    """
    from scipy.stats import quantile_test

    rounds = {one.name: one.rounds for one in measurements if one.rounds and not one.error}
    found = []
    for one in measurements:
        build = one.variant.partition("@")[0]
        exact = f"{build.partition('-')[0]}-fp32"
        sibling = one.name.replace(build, exact, 1)
        if build == exact or one.name not in rounds or sibling not in rounds:
            continue
        # A bench that was interrupted ended in the middle of a round.
        whole = min(len(rounds[one.name]), len(rounds[sibling]))
        ratios = speedups(rounds[sibling][:whole], rounds[one.name][:whole])
        test: Any = quantile_test(ratios)  # the stubs take its interval for a number
        if test.confidence_interval().high < 1:
            found.append(f"{one.name} is slower than {sibling} here: {np.median(ratios):.2f} times its speed.")
    return found


def _names(names: Sequence[str]) -> str:
    """Name a few, and count many: each row carries its mark anyway."""
    return ", ".join(names) if len(names) <= FEW else f"{len(names)} rows"


def _disturbed(those: Sequence[InterferenceFigures]) -> str:
    """Say how much of the measurement was disturbed, and by how much at worst."""
    disturbed, rounds = sum(one.disturbed for one in those), sum(one.rounds for one in those)
    taken = {
        "other processes": max(one.others for one in those),
        "the hypervisor": max(one.steal for one in those),
    }
    who = max(taken, key=lambda name: taken[name])
    return (
        f"Something else ran in {disturbed} of {rounds} rounds of {_names([one.name for one in those])}:"
        f" {who} took up to {table.share(taken[who])} of the cores."
    )
