"""Where the time of a call goes, drawn as bars."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure.alone.peak import Peak
from benchmarks.measure.alone.profile import Profile
from benchmarks.report import alone
from benchmarks.report.plots import svg
from benchmarks.report.plots.svg import ACCENT, BASE, MUTED
from benchmarks.report.table import milliseconds, share

BAR = 0.24
"""Share of a row that its bar takes; above it stands the label."""

ROW_HEIGHT = 0.36
LONGEST_NAME = 22


def bars(profile: Profile, peaks: Sequence[Peak]) -> str:
    """Draw the time of each layer as a bar, with its share of the machine's peak as the filled part.

    Returns:
        An ``<svg>`` element, or an empty string if there are no layers.
    """
    parts = alone.parts(profile, peaks) if profile.layers else []
    if not parts:
        return ""
    figure, axes = svg.rows(len(parts), ROW_HEIGHT)
    said = []
    for index, part in enumerate(parts):
        base = len(parts) - 1 - index
        time = 1000 * part.seconds
        axes.barh([base], [time], BAR, align="edge", color=ACCENT if part.layer else BASE, alpha=0.35, linewidth=0)
        if part.of_peak is not None:
            axes.barh([base], [time * min(1.0, part.of_peak)], BAR, align="edge", color=ACCENT, linewidth=0)
        figures = f"{milliseconds(time)}, {share(part.of_call)}"
        if part.of_peak is not None:
            figures += f", {alone.share_above(part.of_peak)} of peak"
        svg.label(axes, base, _short(part.name), figures, ROW_HEIGHT)
        said.append(f"{part.name} {figures}")
    axes.set_xlim(0, 1000 * max(part.seconds for part in parts) or 1.0)
    axes.set_xlabel("milliseconds", color=MUTED)
    return svg.svg(figure, "profile", f"Time of each layer of {profile.variant}: {'; '.join(said)}")


def _short(name: str) -> str:
    """Return a name without its middle, where it is too long for a row."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
