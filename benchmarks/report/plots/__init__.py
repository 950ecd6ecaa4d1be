"""The report's plots of latency and reward: each an ``<svg>`` element, or empty where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure.batch_sweep import BatchPoint
from benchmarks.measure.protocol import Measurement
from benchmarks.report.figures import Point, pareto_front
from benchmarks.report.plots import svg
from benchmarks.report.plots.svg import ACCENT, BAD, BASE, GOOD, INK, MUTED, PIXELS, WARN
from benchmarks.report.rows import Row
from benchmarks.report.table import EAGER, is_reference, milliseconds
from benchmarks.stats.bootstrap import Interval, RewardSummary
from benchmarks.stats.percentiles import percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 90
MARKERS = {"verified": ("o", GOOD), "provisional": ("D", WARN), "rejected": ("s", BAD)}
"""Shape and color of a status; whatever else can be drawn shares one."""

OTHER_MARKER = ("^", BASE)


def pareto(known: Sequence[Point], margin: float | None) -> str:
    """Draw latency against the change in reward, each with its bounds, and the Pareto front.

    Args:
        known: The variants, the fastest first; they are numbered in this order.
        margin: The allowed loss, in the task's units, or None.
    """
    if len(known) < 2:
        return ""
    figure, axes = svg.area(3.0)
    axes.axhline(0, color=MUTED, linewidth=1)
    if margin is not None:
        axes.axhline(-margin, color=BAD, linewidth=1.4, linestyle="dashed")
    front = pareto_front(known)
    slowest = max(point.row.p99_upper_ms or point.p50_ms for point in known)
    low, high = known[0].p50_ms / 1.25, slowest * 1.25
    if front:
        # From one to the next there is nothing yet: a step, as seen from the fast side.
        across = [point.p50_ms for point in front] + [high]
        up = [point.change for point in front]
        axes.step(across, [*up, up[-1]], where="post", color=ACCENT, linewidth=5, alpha=0.3)
    for number, point in enumerate(known, 1):
        row, x, y = point.row, point.p50_ms, point.change
        marker, color = MARKERS.get(row.status, OTHER_MARKER)
        if row.p99_upper_ms is not None:
            axes.hlines([y], x, row.p99_upper_ms, color=color, linewidth=1.4)
        if row.reward_interval is not None:
            axes.vlines([x], *row.reward_interval, color=color, linewidth=1.4)
        axes.plot([x], [y], marker, color=color, markersize=8)
        _number(axes, number, x, y)
    svg.logarithmic(axes, low, high)
    axes.margins(y=0.12)
    axes.set_xlabel("milliseconds from raw frame to action (logarithmic)", color=MUTED)
    axes.set_ylabel("change in mean return", color=MUTED)
    points = ", ".join(f"{one.row.variant} {milliseconds(one.p50_ms)} {one.change:+.2f}" for one in known)
    return svg.svg(figure, "pareto", f"Median latency against change in mean return: {points}")


def _number(axes: Axes, number: int, x: float, y: float) -> None:
    """Write a point's number above it and to the right, the next one's below, so that neighbors stay legible."""
    aside = (5, 6) if number % 2 else (5, -14)
    axes.annotate(str(number), (x, y), aside, textcoords="offset points", color=INK, fontweight="bold")


def latency(measurements: Sequence[Measurement], reference: str = EAGER) -> str:
    """Draw the distribution of all raw samples, one row a variant, on a logarithmic axis of milliseconds."""
    if not measurements:
        return ""
    samples = [1000 * np.concatenate([np.asarray(r) for r in m.rounds]) for m in measurements]
    low, high = min(map(np.min, samples)) / 1.15, max(map(np.max, samples)) * 1.15
    edges = np.geomspace(low, high, BINS + 1)
    figure, axes = svg.rows(len(measurements))
    said = []
    for row, (measurement, times) in enumerate(zip(measurements, samples, strict=True)):
        base = len(measurements) - 1 - row
        counts, _ = np.histogram(times, edges)
        color = BASE if is_reference(measurement.name, reference) else ACCENT
        heights = base + 0.5 * counts / counts.max()
        axes.stairs(heights, edges, baseline=base, fill=True, color=color, alpha=0.45, linewidth=0)
        # A single slow call is a bin too low to see; a tick for the samples beyond p99 shows the tail.
        tail = times[times > np.quantile(times, 0.99)]
        axes.vlines(_distinct(tail, low, high), base, base + 0.12, color=color, linewidth=0.8)
        median, p99 = percentile(times.tolist(), 0.5), percentile(times.tolist(), 0.99)
        assert median is not None
        axes.vlines([median], base, base + 0.5, color=INK, linewidth=1.6)
        medians = [1000 * seconds for seconds in measurement.start_medians()]
        axes.plot(medians, [base + 0.55] * len(medians), ".", color=INK, markersize=3)
        figures = f"p50 {milliseconds(median)}" + (f", p99 {milliseconds(p99)}" if p99 else "")
        svg.label(axes, base, measurement.name, figures)
        said.append(f"{measurement.name} {figures}")
    svg.logarithmic(axes, low, high)
    axes.set_xlabel("milliseconds from raw frame to action (logarithmic)", color=MUTED)
    return svg.svg(figure, "latency", f"Distribution of latency of each variant: {'; '.join(said)}")


def _distinct(times: np.ndarray, low: float, high: float) -> np.ndarray:
    """Keep one of the times that would be drawn in the same place."""
    places = np.round(PIXELS * np.log(times / low) / np.log(high / low))
    return times[np.unique(places, return_index=True)[1]]


def reward(rows: Sequence[Row], margin: float | None) -> str:
    """Draw each variant's change in mean return with its bounds, and the loss that is still allowed.

    Args:
        rows: The report's rows; those without a measured reward are left out.
        margin: The allowed loss, in the task's units, or None.
    """
    known = [
        (row, Interval(row.reward_delta, *row.reward_interval))
        for row in rows
        if row.reward_delta is not None and row.reward_interval is not None
    ]
    if not known:
        return ""
    figure, axes = svg.rows(len(known))
    said = []
    for index, (row, change) in enumerate(known):
        base = len(known) - 1 - index
        low, high = change.low, change.high
        short = WARN if row.status == "provisional" else BAD
        color = ACCENT if margin is None or low >= -margin else short
        _interval(axes, base + 0.2, change, color)
        # Line by line, so that none runs through the labels.
        axes.vlines([0], base - 0.1, base + 0.5, color=MUTED, linewidth=1)
        if margin is not None:
            axes.vlines([-margin], base - 0.1, base + 0.5, color=BAD, linewidth=1.4, linestyles="dashed")
        figures = f"{change.value:+.2f} [{low:+.2f}, {high:+.2f}]"
        svg.label(axes, base, row.variant, figures)
        said.append(f"{row.variant} {figures}")
    reach = [bound for _, change in known for bound in (change.low, change.high)] + [0.0]
    _across(axes, reach if margin is None else [*reach, -margin])
    axes.set_xlabel("change in mean return, one-sided 95 % bounds", color=MUTED)
    return svg.svg(figure, "reward", f"Change in mean return of each variant with its bounds: {'; '.join(said)}")


def returns(summaries: Mapping[str, RewardSummary], reference: str = EAGER) -> str:
    """Draw mean and interquartile mean of each variant's returns with their intervals."""
    if not summaries:
        return ""
    figure, axes = svg.rows(len(summaries))
    for index, (name, summary) in enumerate(summaries.items()):
        base = len(summaries) - 1 - index
        color = BASE if is_reference(name, reference) else ACCENT
        _interval(axes, base + 0.36, summary.mean, color)
        _interval(axes, base + 0.1, summary.iqm, color, "D")
        svg.label(axes, base, name, f"mean {summary.mean.value:.2f}, IQM {summary.iqm.value:.2f}")
    _across(axes, [bound for s in summaries.values() for i in (s.mean, s.iqm) for bound in (i.low, i.high)])
    axes.set_xlabel("return of an episode, 95 % bootstrap intervals", color=MUTED)
    said = (f"{name} mean {s.mean.value:.2f}, interquartile mean {s.iqm.value:.2f}" for name, s in summaries.items())
    return svg.svg(figure, "returns", f"Returns of each variant: {'; '.join(said)}")


def _interval(axes: Axes, y: float, interval: Interval, color: str, marker: str = "o") -> None:
    axes.hlines([y], interval.low, interval.high, color=color, linewidth=3)
    axes.vlines([interval.low, interval.high], y - 0.1, y + 0.1, color=color, linewidth=1.6)
    axes.plot([interval.value], [y], marker, color=color, markersize=6)


def _across(axes: Axes, values: Sequence[float]) -> None:
    """Let the x axis show all values, with some air."""
    pad = 0.08 * (max(values) - min(values)) or 1.0
    axes.set_xlim(min(values) - pad, max(values) + pad)
    axes.ticklabel_format(axis="x", useOffset=False)


def sweep(points: Sequence[BatchPoint], reference: str = EAGER) -> str:
    """Draw throughput against the median time of a step, one numbered line a variant, one point a batch."""
    if not points:
        return ""
    figure, axes = svg.area(3.0)
    names = list(dict.fromkeys(point.name for point in points))
    for number, name in enumerate(names, 1):
        line = sorted((point for point in points if point.name == name), key=lambda point: point.batch)
        times, frames = [point.p50_ms for point in line], [point.frames_per_second for point in line]
        color = BASE if is_reference(name, reference) else ACCENT
        axes.plot(times, frames, "o-", color=color, markersize=5, linewidth=1.6)
        _number(axes, number, times[-1], frames[-1])
    times = [point.p50_ms for point in points]
    svg.logarithmic(axes, min(times) / 1.2, max(times) * 1.35)
    axes.set_ylim(0, 1.15 * max(point.frames_per_second for point in points))
    axes.set_xlabel("milliseconds a step (logarithmic)", color=MUTED)
    axes.set_ylabel("observations a second", color=MUTED)
    said = (f"{p.name} batch {p.batch}: {p.frames_per_second:,.0f} a second, {milliseconds(p.p50_ms)}" for p in points)
    return svg.svg(figure, "sweep", f"Throughput against latency: {'; '.join(said)}")
