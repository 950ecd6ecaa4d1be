"""The report's plots, as SVG that takes its colours from the page it is put into.

The same figures give the same bytes. Text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.latency import Measurement
from benchmarks.summary import percentile
from benchmarks.table import Row, milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8
"""Inches; small enough that 10-point text is still legible on a telephone."""

ROW_HEIGHT = 0.62
BINS = 90

# Colours that no plot uses by accident; in the page each becomes a variable that differs in light and dark.
INK, MUTED, ACCENT, BASE, BAD = "#010203", "#010204", "#010205", "#010206", "#010207"
VARIABLES = {INK: "--ink", MUTED: "--muted", ACCENT: "--accent", BASE: "--base", BAD: "--bad"}


def latency(measurements: Sequence[Measurement]) -> str:
    """Draw the distribution of all raw samples, one row a variant, on a logarithmic axis of milliseconds.

    Returns:
        An ``<svg>`` element, or an empty string if there is nothing to draw.
    """
    if not measurements:
        return ""
    samples = [1000 * np.concatenate([np.asarray(r) for r in m.rounds]) for m in measurements]
    low, high = min(map(np.min, samples)) / 1.15, max(map(np.max, samples)) * 1.15
    edges = np.geomspace(low, high, BINS + 1)
    figure, axes = _rows(len(measurements))
    for row, (measurement, times) in enumerate(zip(measurements, samples, strict=True)):
        base = len(measurements) - 1 - row
        counts, _ = np.histogram(times, edges)
        colour = BASE if measurement.variant.startswith("eager") else ACCENT
        heights = base + 0.5 * counts / counts.max()
        axes.stairs(heights, edges, baseline=base, fill=True, color=colour, alpha=0.45, linewidth=0)
        # A single slow call is a bin too low to see; a tick for each sample beyond p99 shows the tail.
        tail = times[times > np.quantile(times, 0.99)]
        axes.vlines(tail, base, base + 0.12, color=colour, linewidth=0.8)
        median, p99 = percentile(list(times), 0.5), percentile(list(times), 0.99)
        assert median is not None
        axes.vlines([median], base, base + 0.5, color=INK, linewidth=1.6)
        figures = f"p50 {milliseconds(median)}" + (f", p99 {milliseconds(p99)}" if p99 else "")
        _label(axes, base, measurement.name, f"{figures}")
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    _plain_ticks(axes, low, high)
    axes.set_xlabel("milliseconds from raw frame to action (logarithmic)", color=MUTED)
    return _svg(figure, "latency", "Distribution of latency of each variant")


def reward(rows: Sequence[Row], margin: float | None) -> str:
    """Draw each variant's change in mean return with its bounds, and the loss that is still allowed.

    Args:
        rows: The report's rows; those without a measured reward are left out.
        margin: The allowed loss, in the task's units, or None.

    Returns:
        An ``<svg>`` element, or an empty string if no variant's reward was measured.
    """
    known = [row for row in rows if row["reward_delta"] is not None and row["reward_interval"] is not None]
    if not known:
        return ""
    figure, axes = _rows(len(known))
    for index, row in enumerate(known):
        base = len(known) - 1 - index
        low, high = row["reward_interval"]
        colour = ACCENT if margin is None or low >= -margin else BAD
        axes.hlines([base + 0.2], low, high, color=colour, linewidth=3)
        axes.vlines([low, high], base + 0.08, base + 0.32, color=colour, linewidth=1.6)
        axes.plot([row["reward_delta"]], [base + 0.2], "o", color=colour, markersize=7)
        # Line by line, so that none runs through the labels.
        axes.vlines([0], base - 0.1, base + 0.5, color=MUTED, linewidth=1)
        if margin is not None:
            axes.vlines([-margin], base - 0.1, base + 0.5, color=BAD, linewidth=1.4, linestyles="dashed")
        _label(axes, base, row["variant"], f"{row['reward_delta']:+.2f} [{low:+.2f}, {high:+.2f}]")
    reach = [value for row in known for value in row["reward_interval"]] + [0.0]
    if margin is not None:
        reach.append(-margin)
    pad = 0.08 * (max(reach) - min(reach) or 1.0)
    axes.set_xlim(min(reach) - pad, max(reach) + pad)
    axes.set_xlabel("change in mean return against eager, one-sided 95 % bounds", color=MUTED)
    return _svg(figure, "reward", "Change in reward of each variant with its bounds")


def _rows(count: int) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, ROW_HEIGHT * count + 0.75))
    height = ROW_HEIGHT * count + 0.75
    axes = figure.add_axes((0.03, 0.6 / height, 0.94, 1 - 0.65 / height))
    axes.set_ylim(-0.1, count)
    axes.set_yticks([])
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
    axes.tick_params(axis="x", which="both", colors=MUTED)
    axes.grid(visible=True, axis="x", which="major", color=MUTED, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _label(axes: Axes, base: float, name: str, figures: str) -> None:
    """Write above a row, so that no width is lost to a column of names."""
    across = axes.get_yaxis_transform()
    axes.text(0, base + 0.62, name, transform=across, color=INK, fontweight="bold", parse_math=False)
    axes.text(1, base + 0.62, figures, transform=across, color=MUTED, ha="right", parse_math=False)


def _plain_ticks(axes: Axes, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers: 1, 2, 5, 10 ..."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = np.outer(powers, (1, 2, 5) if high / low < 200 else (1,)).ravel()
    axes.xaxis.set_major_locator(FixedLocator(ticks[(ticks >= low) & (ticks <= high)].tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _svg(figure: Figure, name: str, title: str) -> str:
    import matplotlib

    file = io.StringIO()
    # Fixed identifiers, no date and no address of anybody: equal figures give equal bytes.
    nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"xfer-{name}", "font.size": 10}):
        figure.savefig(file, format="svg", transparent=True, metadata=nobody)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # names of groups, equal in all plots; nothing refers to them
    svg = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2var(--font)", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
