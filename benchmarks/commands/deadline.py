"""The exit status of ``xfer bench``, here or on another machine: whether a variant missed its deadline."""

from __future__ import annotations

from typing import Any

from benchmarks.report.data import Report
from xfer.errors import CheckFailed


def late(report: Report, asked: str) -> list[str]:
    """Return which rows missed the deadline on the evidence.

    Args:
        report: The report.
        asked: The variants that were asked for. The reference, which is measured anyway, counts only among these.
    """
    from benchmarks.report.conclusion import missed

    named = {part.strip() for part in asked.split(",")}
    return [name for name in missed(report) if name != report.reference or named & {name, name.partition("-")[0]}]


def judged(report: Report, result: dict[str, Any], asked: str) -> dict[str, Any]:
    """Return what ``--json`` prints, unless a deadline was missed.

    Args:
        report: The report.
        result: What ``--json`` prints of it.
        asked: As of ``late``.

    Raises:
        CheckFailed: If a variant misses the deadline on the evidence.
    """
    if missed := late(report, asked):
        raise CheckFailed(f"{', '.join(missed)} missed the deadline of {report.limits.deadline_ms:g} ms.", result)
    return result
