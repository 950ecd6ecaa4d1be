"""Learning curves: success over frames of experience, with a band over seeds; as a picture and as a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.report.plots import svg
from benchmarks.report.plots.svg import ACCENT, BASE, INK, MUTED
from xfer.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = (ACCENT, BASE)
"""One a kind of run, as the page has them; ``PRINTED`` are the same where there is no page."""
PRINTED = ("#0b6bcb", "#7a8594")
DPI = 160
PICTURE, PAGE = "learning-curves.png", "learning-curves.html"


@dataclass(frozen=True)
class Curve:
    """How one run learned.

    Attributes:
        label: What kind of run it was.
        seed: Its seed.
        frames: Frames collected until each evaluation, rising.
        success: Share of the episodes that succeeded in each.
        seconds: How long the run took.
    """

    label: str
    seed: int
    frames: tuple[int, ...]
    success: tuple[float, ...]
    seconds: float

    def reached(self, success: float) -> int | None:
        """Return the frames after which success was there and stayed in the next evaluation, or None.

        An evaluation before the first frame does not count.
        """
        pairs = zip(self.frames, pairwise(self.success), strict=False)
        return next((frames for frames, both in pairs if frames and min(both) >= success), None)

    def at(self, frames: int) -> float:
        """Return the success of the last evaluation with no more frames than these."""
        return [value for had, value in zip(self.frames, self.success, strict=True) if had <= frames][-1]


def learn(path: Path, label: str, **options: Any) -> Curve:
    """Do what ``xfer train`` does, or the rest of it, and return how it went."""
    from rich.console import Console

    from xfer import train
    from xfer.training.run_folder import RunFolder

    Console().print(f"[bold]{label}[/] ({path})")
    train(output=path, **options)
    run = RunFolder(path)
    done, result = run.rounds(), run.result()
    assert result is not None
    success = tuple(one.success for one in done if one.success is not None)
    return Curve(label, options["seed"], tuple(one.frames for one in done), success, result.seconds)


def write(
    folder: Path,
    curves: Sequence[Curve],
    threshold: float,
    heading: str,
    row: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """Write picture and page; see ``html``."""
    write_atomically(folder / PICTURE, png(curves, threshold))
    write_atomically(folder / PAGE, html(curves, threshold, heading, row, notes).encode())


def where(folder: Path) -> str:
    """Return the note that says where they are."""
    return f"Curves: {folder / PICTURE}, {folder / PAGE}"


def by_label(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Return the curves by kind, in the order in which the kinds come."""
    return {
        label: [curve for curve in curves if curve.label == label] for label in dict.fromkeys(c.label for c in curves)
    }


def plot(curves: Sequence[Curve], threshold: float, colors: Sequence[str] = COLORS) -> Figure:
    """Draw the median over seeds of each kind, and a band from the worst to the best.

    A run that had ended by then counts with its last evaluation.

    Args:
        curves: The runs, of two kinds at most; each begins at or before the first frames of its kind's others.
        threshold: What was to be reached.
        colors: One a kind.
    """
    figure, axes = svg.area(3.0)
    axes.axhline(100 * threshold, color=MUTED, linewidth=1, linestyle="dashed")
    for (label, runs), color in zip(by_label(curves).items(), colors, strict=False):
        across = sorted({frames for run in runs for frames in run.frames})
        values = [[100 * run.at(frames) for run in runs] for frames in across]
        axes.fill_between(across, list(map(min, values)), list(map(max, values)), color=color, alpha=0.22, linewidth=0)
        axes.plot(across, list(map(median, values)), "o-", color=color, markersize=3, linewidth=1.8, label=label)
    axes.legend(loc="lower right", frameon=False, labelcolor=INK)
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    axes.set_xlabel("frames of this task", color=MUTED)
    axes.set_ylabel("episodes that succeed, %", color=MUTED)
    return figure


def png(curves: Sequence[Curve], threshold: float) -> bytes:
    """Return the drawing as a PNG on white."""
    buffer = io.BytesIO()
    plot(curves, threshold, PRINTED).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def html(curves: Sequence[Curve], threshold: float, heading: str, row: Mapping[str, str], notes: Sequence[str]) -> str:
    """Return a page with the drawing, the figures and every run's evaluations; it loads nothing from the network.

    Args:
        curves: The runs.
        threshold: What was to be reached.
        heading: What is claimed.
        row: Figures by name.
        notes: What else a reader should know.
    """
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader([Path(__file__).parent, Path(svg.__file__).parents[1]])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    said = "; ".join(
        f"{label} {100 * median(run.success[-1] for run in runs):.0f} % at the end"
        for label, runs in by_label(curves).items()
    )
    drawn = svg.svg(plot(curves, threshold), "learning", f"Success over frames: {said}")
    page: str = environment.get_template("learning_curves.html.j2").render(
        heading=heading, row=row, notes=notes, curves=curves, drawn=Markup(drawn)
    )
    return page
