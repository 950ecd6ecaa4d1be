"""How the report's plots are drawn: as SVG that takes its colors and its font from the page it is put into.

The same figures give the same bytes. Text stays text, and what a plot shows is also its label for a screen reader.
"""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8
"""Inches; small enough that 10-point text is still legible on a telephone."""

PIXELS = 500
"""Positions across a plot that can be told apart; drawing more would only make the page larger."""

ROW_HEIGHT, TALL = 0.62, 0.95
"""Inches of a row with its label, and of one that has a scale of its own."""

LABEL_HEIGHT = 0.236
BELOW = 0.5
"""Inches for the numbers and the label of the x axis."""

# Colors that no plot uses by accident; in the page each becomes a variable that differs in light and dark.
INK, MUTED, ACCENT, BASE, BAD = "#010203", "#010204", "#010205", "#010206", "#010207"
GOOD, WARN, CARD = "#010208", "#010209", "#01020a"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    ACCENT: "--accent",
    BASE: "--base",
    BAD: "--bad",
    GOOD: "--good",
    WARN: "--warn",
    CARD: "--card",
}


def rows(count: int, row_height: float = ROW_HEIGHT) -> tuple[Figure, Axes]:
    """Return axes with one row a variant, the first at the top: a row's floor is a whole number on the y axis."""
    height = row_height * count + BELOW + 0.05
    figure, axes = area(height, left=0.03)
    axes.set_ylim(-0.1, count)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    return figure, axes


def area(height: float, left: float = 0.17) -> tuple[Figure, Axes]:
    """Return axes of a height in inches, with room for numbers at a share of the width on the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((left, BELOW / height, 0.97 - left, 1 - (BELOW + 0.05) / height))
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color(MUTED)
    axes.tick_params(which="both", colors=MUTED)
    axes.grid(visible=True, which="major", color=MUTED, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def label(axes: Axes, base: float, name: str, figures: str, row_height: float = ROW_HEIGHT) -> None:
    """Write above a row, so that no width is lost to a column of names."""
    across, height = axes.get_yaxis_transform(), base + 1 - LABEL_HEIGHT / row_height
    axes.text(0, height, name, transform=across, color=INK, fontweight="bold", parse_math=False)
    axes.text(1, height, figures, transform=across, color=MUTED, ha="right", parse_math=False)


def logarithmic(axes: Axes, low: float, high: float) -> None:
    """Make the x axis logarithmic and label it with plain numbers: 1, 2, 5, 10 ..."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = np.outer(powers, (1, 2, 5) if high / low < 200 else (1,)).ravel()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks[(ticks >= low) & (ticks <= high)].tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def svg(figure: Figure, name: str, title: str) -> str:
    """Return the drawing as an ``<svg>`` element.

    Args:
        figure: The drawing.
        name: Of the plot; no two on a page may have the same.
        title: What it shows, figures included, for those who do not see it.
    """
    import matplotlib

    file = io.StringIO()
    # Fixed identifiers, no date and no address of anybody: equal figures give equal bytes.
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"xfer-{name}", "font.size": 10}):
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)  # names of groups, equal in all plots; nothing refers to them
    drawn = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2var(--font)", drawn)
    drawn = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawn, count=1)
    drawn = drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    # A hundredth of a point cannot be seen; six decimals would double the page's size.
    drawn = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), drawn)
    for color, variable in VARIABLES.items():
        drawn = drawn.replace(color, f"var({variable})")
    return drawn
