"""Writing a report: ``report.json`` with every raw sample, ``report.md`` for a pull request, and ``report.html``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.report.data import SCHEMA, Report
from xfer.errors import UsageError
from xfer.files import write_atomically


def write(report: Report, folder: Path) -> dict[str, str]:
    """Write the three files, each whole or not at all.

    Returns:
        Their paths by kind: ``json``, ``md``, ``html``.

    Raises:
        UsageError: If the folder cannot be written to.
    """
    from benchmarks.report.html import to_html
    from benchmarks.report.markdown import to_markdown

    contents = {"json": to_json(report), "md": to_markdown(report), "html": to_html(report)}
    try:
        for kind, text in contents.items():
            write_atomically(folder / f"report.{kind}", text.encode())
    except OSError as error:
        raise UsageError(f"{folder} {error.strerror}. Choose another --output.") from error
    return {kind: str(folder / f"report.{kind}") for kind in contents}


def to_json(report: Report) -> str:
    """Return the whole report as JSON; ``docs/report.schema.json`` describes it."""
    plain = {
        "schema": SCHEMA,
        "verdict": report.findings.verdict,
        **msgspec.to_builtins(report),
        "findings": msgspec.to_builtins(report.findings),
    }
    return msgspec.json.encode(plain).decode() + "\n"
