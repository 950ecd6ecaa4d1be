"""The control loop, drawn tick by tick."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.measure.control_loop import ControlLoop
from benchmarks.report import svg
from benchmarks.report.svg import ACCENT, BAD, BASE, MUTED, PIXELS, TALL
from benchmarks.report.table import milliseconds

HEIGHT = 0.66
"""Share of a row that the scale takes; above it stands the label."""


def timeline(loops: Sequence[ControlLoop]) -> str:
    """Draw the latency of each tick against time, the deadline, and where it was missed; one row a variant.

    Where there are more ticks than places across the plot, the smallest and largest of those in one place are drawn,
    so no miss can be overlooked. All rows have the same logarithmic scale. Where a policy plans ahead, strokes below
    mark the ticks at which an inference falls.

    Returns:
        An ``<svg>`` element, or an empty string if there are no ticks.
    """
    ran = [loop for loop in loops if loop.latencies_ms]
    if not ran:
        return ""
    low, high = _reach(ran)

    def up(milliseconds: np.ndarray | float) -> np.ndarray:
        return np.asarray(HEIGHT * np.log(np.maximum(milliseconds, low) / low) / np.log(high / low))

    figure, axes = svg.rows(len(ran), TALL)
    said = []
    for index, loop in enumerate(ran):
        base = len(ran) - 1 - index
        ticks = np.asarray(loop.latencies_ms)
        seconds = np.arange(len(ticks)) / loop.rate_hz
        deadline = base + up(loop.deadline_ms)
        color = BASE if loop.name.startswith("eager") else ACCENT
        starts = np.unique(np.linspace(0, len(ticks), min(PIXELS, len(ticks)), endpoint=False).astype(int))
        lowest, highest = np.minimum.reduceat(ticks, starts), np.maximum.reduceat(ticks, starts)
        axes.fill_between(seconds[starts], base, base + up(highest), color=color, alpha=0.25, linewidth=0, step="post")
        axes.step(seconds[starts], base + up(lowest), color=color, linewidth=0.8, where="post")
        axes.hlines([deadline], 0, len(ticks) / loop.rate_hz, color=BAD, linewidth=1, linestyles="dashed")
        late = highest > loop.deadline_ms
        axes.vlines(seconds[starts][late], deadline, base + up(highest[late]), color=BAD, linewidth=1.2)
        axes.plot(seconds[starts][late], base + up(highest[late]), "o", color=BAD, markersize=3)
        figures = f"missed {loop.missed:,} of {len(ticks):,}, worst {milliseconds(loop.worst_ms)}"
        inferred = np.flatnonzero(loop.inferred)
        if len(inferred) < len(loop.inferred):  # of a policy that plans ahead
            axes.plot(seconds[inferred], np.full(len(inferred), base), "|", color=color, markersize=4)
            figures += f", an inference at {len(inferred):,}"
        svg.label(axes, base, loop.name, figures, TALL)
        said.append(f"{loop.name} {figures}")
    axes.set_xlim(0, max(len(loop.latencies_ms) / loop.rate_hz for loop in ran))
    axes.set_xlabel("seconds", color=MUTED)
    return svg.svg(figure, "timeline", f"Latency of each tick of the control loop: {'; '.join(said)}")


def _reach(loops: Sequence[ControlLoop]) -> tuple[float, float]:
    """The ends of the scale: all ticks and deadlines lie between them."""
    times = [time for loop in loops for time in (*loop.latencies_ms, loop.deadline_ms)]
    return max(min(times), 0.001) / 1.2, max(times) * 1.05
