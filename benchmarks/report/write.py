"""Writing a report: ``report.json`` with every raw sample, ``report.md`` for a pull request, and ``report.html``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.report.conclusion import Findings
from benchmarks.report.data import SCHEMA, Report
from xfer.errors import UsageError
from xfer.files import write_atomically


def write(report: Report, findings: Findings, folder: Path) -> dict[str, str]:
    """Write the three files, each whole or not at all.

    Returns:
        Their paths by kind: ``json``, ``md``, ``html``.

    Raises:
        UsageError: If the folder cannot be written to.
    """
    from benchmarks.report.html import to_html
    from benchmarks.report.markdown import to_markdown

    contents = {
        "json": to_json(report, findings),
        "md": to_markdown(report, findings),
        "html": to_html(report, findings),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, text in contents.items():
            write_atomically(folder / f"report.{kind}", text.encode())
    except OSError as error:
        raise UsageError(f"{folder} {error.strerror}. Choose another --output.") from error
    return {kind: str(folder / f"report.{kind}") for kind in contents}


def to_json(report: Report, findings: Findings) -> str:
    """Return the whole report as JSON; ``docs/report.schema.json`` describes it."""
    # replace() sets every field: msgspec leaves out those that a report of an older version lacks.
    whole = replace(report, rows=tuple(map(replace, report.rows)))
    plain = {
        "schema": SCHEMA,
        "verdict": findings.verdict,
        **msgspec.to_builtins(whole),
        "findings": msgspec.to_builtins(findings),
    }
    return msgspec.json.encode(plain).decode() + "\n"
