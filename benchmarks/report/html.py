"""``report.html``: one file with its styles and plots inside, which loads nothing from the network."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import alone, figures, method, plots, table
from benchmarks.report.conclusion import Findings
from benchmarks.report.data import Report
from benchmarks.report.plots.profile import bars
from benchmarks.report.plots.soak import course
from benchmarks.report.plots.timeline import timeline
from export.verification.non_inferiority import MARGIN


def to_html(report: Report, findings: Findings) -> str:
    """Return the page; everything that comes from a bundle is escaped. What was not measured is left out."""
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    points = figures.comparable(report.rows, report.reference)
    margin = MARGIN * report.reward.span if report.reward else None
    whole = [m for m in report.measurements if m.rounds and not m.error and m.batch == 1]
    drawn = {
        "pareto": plots.pareto(points, margin),
        "latency": plots.latency(whole, report.reference),
        "timeline": timeline(report.loops, report.reference),
        "reward": plots.reward(report.rows, margin),
        "returns": plots.returns(findings.reward_summaries, report.reference),
        "sweep": plots.sweep(report.sweep, report.reference),
        "profile": bars(report.profile, report.peaks) if report.profile else "",
        "soak": course(report.soak) if report.soak else "",
    }
    page: str = environment.get_template("report.html.j2").render(
        report=report,
        reference=table.short(report.reference),
        columns=table.columns(report.reference),
        findings=findings,
        rows=[(row, table.cells(row), table.marks(row)) for row in report.rows],
        points=points,
        diverged=[row for row in report.rows if row.divergence],
        agreed=[row for row in report.rows if row.returns and not row.divergence],
        margin=MARGIN,
        # matplotlib has escaped the text inside its own drawings.
        plots={name: Markup(svg) for name, svg in drawn.items()},
        alone=alone,
        table=table,
        method=method,
    )
    return page
