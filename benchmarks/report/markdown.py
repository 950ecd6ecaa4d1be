"""``report.md``: the conclusion, the tables and what was measured on, for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.report import alone, method, table
from benchmarks.report.conclusion import Findings
from benchmarks.report.data import Report


def to_markdown(report: Report, findings: Findings) -> str:
    """Return the report as Markdown; nothing that comes from a bundle is read as Markdown or HTML."""
    lines = [f"**{_plain(findings.verdict)}**", ""]
    lines += _list(caveat.text for caveat in findings.caveats)
    rows = []
    for row in report.rows:
        cells = table.cells(row)
        cells[1] = ", ".join([cells[1], *table.marks(row)])
        rows.append(cells)
    lines += _table(table.columns(report.reference), rows, left=2)
    lines += _list(f"{variant}: {reason}" for variant, reason in table.reasons(report.rows))
    loops, summaries = findings.loops, findings.reward_summaries
    if loops:
        lines += [f"Control loop at {loops[0].rate_hz:g} Hz, each tick timed from its scheduled moment:", ""]
        lines += _table(*table.loops(loops))
    if summaries:
        lines += ["Returns, with 95 % bootstrap intervals:", "", *_table(*table.returns(summaries))]
    lines += _list(table.divergence(row, report.reference) for row in report.rows if row.divergence)
    if report.sweep:
        lines += ["Batch sweep, with the median time of a step:", "", *_table(*table.sweep(report.sweep))]
    if report.profile is not None:
        if report.profile.layers:
            lines += [f"Where the time of {_plain(report.profile.variant)} goes:", ""]
            lines += _table(*alone.layers(report.profile, report.peaks), left=2)
        lines += _list(alone.of_profile(report.profile, report.rows))
    if report.soak is not None:
        lines += _list(alone.of_soak(report.soak))
        lines += _table(*alone.stretches(report.soak)) if report.soak.intervals else []
    if report.conditions:
        lines += ["The machine, before the first round:", "", *_table(*table.conditions(report.conditions), left=4)]
    lines += _list(
        [
            *(f"Graph: {line}" for line in method.graph_lines(report)),
            *(f"Arithmetic limit: {line}" for line in method.limit_lines(report)),
            f"Machine: {method.machine_line(report)}",
            f"Limits: {report.limits}",
            *report.notes,
            f"Measured {report.measured}",
        ]
    )
    return "\n".join([*lines, method.explanation(report), "", "```", *report.commands, "```", ""])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    lines = ["| " + " | ".join(_plain(cell) for cell in cells) + " |" for cells in (columns, *rows)]
    lines.insert(1, "|" + " :-- |" * left + " --: |" * (len(columns) - left))
    return [*lines, ""]


def _list(sentences: Iterable[str]) -> list[str]:
    lines = [f"- {_plain(sentence)}" for sentence in sentences]
    return [*lines, ""] if lines else []


def _plain(text: str) -> str:
    """Keep text from being read as Markdown or HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\`*_|[]" else letter for letter in text)
