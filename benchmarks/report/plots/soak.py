"""A soak against time: the duration of a call, memory, clock and temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.measure.alone.soak import Soak
from benchmarks.report.alone import of_soak
from benchmarks.report.plots import svg
from benchmarks.report.plots.svg import ACCENT, BAD, MUTED, TALL

HEIGHT = 0.6
"""Share of a row that its scale takes; above it stands the label."""


def course(soak: Soak) -> str:
    """Draw each figure of a soak against time, on a scale of its own; dots mark intervals in which it was throttled.

    Returns:
        An ``<svg>`` element, or an empty string without intervals.
    """
    if not soak.intervals:
        return ""
    seconds = np.array([one.end_s for one in soak.intervals])
    slowed = np.array([one.throttled_s > 0 or one.slowdowns > 0 for one in soak.intervals])
    rows: list[tuple[str, str, Sequence[float | None]]] = [
        ("median of a call", "ms", [one.p50_ms for one in soak.intervals]),
        ("slowest call", "ms", [one.max_ms for one in soak.intervals]),
        ("memory", "MB", [one.memory_bytes / 1e6 for one in soak.intervals]),
        ("clock", "MHz", [one.clock_mhz for one in soak.intervals]),
        ("GPU clock", "MHz", [one.gpu_clock_mhz for one in soak.intervals]),
        ("temperature", "°C", [one.temperature for one in soak.intervals]),
    ]
    known = [(name, unit, values) for name, unit, values in rows if None not in values]
    figure, axes = svg.rows(len(known), TALL)
    for index, (name, unit, values) in enumerate(known):
        base = len(known) - 1 - index
        numbers = np.array(values, float)
        low, high = float(numbers.min()), float(numbers.max())
        room = max(high - low, 0.02 * abs(high), 1e-9)  # noise of a steady figure is no mountain
        up = base + HEIGHT * (numbers - low) / room
        axes.plot(seconds, up, color=ACCENT, linewidth=1.2)
        if index == 0:
            axes.plot(seconds[slowed], up[slowed], "o", color=BAD, markersize=3)
        svg.label(axes, base, name, f"{low:,.4g} to {high:,.4g} {unit}", TALL)
    axes.set_xlim(0, float(seconds[-1]))
    axes.set_xlabel("seconds", color=MUTED)
    return svg.svg(figure, "soak", " ".join(of_soak(soak)))
