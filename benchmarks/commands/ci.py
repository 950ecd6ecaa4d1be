"""What continuous integration reads: JUnit's XML, and the JSON of github-action-benchmark.

    --junit FILE            one test case a variant; it fails if it is rejected, late, or became worse
    --benchmark-json FILE   one figure a variant, for the tool ``customSmallerIsBetter``

Sources: https://github.com/testmoapp/junitxml, https://github.com/benchmark-action/github-action-benchmark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

from benchmarks.commands import deadline
from xfer.errors import UsageError
from xfer.files import writable, write_atomically

if TYPE_CHECKING:
    from benchmarks.commands.compare import Change
    from benchmarks.report.data import Report
    from benchmarks.report.rows import Row

NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, as a terminal's escapes."""


@dataclass(frozen=True)
class Case:
    """One variant as a test case.

    Attributes:
        name: Its row.
        seconds: Its median, or None.
        outcome: What became of it; ``error`` if it could not be measured, ``skipped`` if it cannot run here.
        why: The reason, in one line.
        said: What else a reader may want to know.
    """

    name: str
    seconds: float | None
    outcome: Literal["passed", "failure", "error", "skipped"]
    why: str = ""
    said: str = ""


def check(junit: Path | None, benchmark_json: Path | None) -> None:
    """See before minutes are measured whether the files can be written where they are to go.

    Raises:
        UsageError: If a folder is missing, or stands where a file is to.
    """
    for option, path in (("--junit", junit), ("--benchmark-json", benchmark_json)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            why = "is a folder" if path.is_dir() else f"lies in {path.parent}, which is no folder"
            raise UsageError(f"{option} {path} {why}. Choose another file.")


def write(report: Report, asked: str, junit: Path | None, benchmark_json: Path | None) -> None:
    """Write the files of a bench that were asked for.

    Args:
        report: The report.
        asked: The variants that were asked for.
        junit: Where the XML goes, or None.
        benchmark_json: Where the JSON goes, or None.

    Raises:
        UsageError: If a file cannot be written.
    """
    late = deadline.late(report, asked)
    if junit is not None:
        cases = [_case(row, row.variant in late, report.limits.deadline_ms) for row in report.rows]
        _write("--junit", junit, to_junit(f"xfer bench {report.task}", report.measured, cases))
    if benchmark_json is not None:
        _write("--benchmark-json", benchmark_json, to_benchmark_json(report))


def write_comparison(changes: Sequence[Change], new: Report, junit: Path | None, benchmark_json: Path | None) -> None:
    """Write the files of a comparison that were asked for: a case a variant, and the figures of the new report.

    Raises:
        UsageError: If a file cannot be written.
    """
    if junit is not None:
        cases = [_changed(change) for change in changes]
        _write("--junit", junit, to_junit(f"xfer compare {new.task}", new.measured, cases))
    if benchmark_json is not None:
        _write("--benchmark-json", benchmark_json, to_benchmark_json(new))


def _case(row: Row, late: bool, deadline_ms: float | None) -> Case:
    from benchmarks.report import table

    seconds = None if row.p50_ms is None else row.p50_ms / 1000
    said = "" if seconds is None else f"{row.status}; p50 {table.milliseconds(row.p50_ms)}; {table.sentence(row)}"
    if row.status == "rejected":
        return Case(row.variant, seconds, "failure", f"rejected: {row.reason}", said)
    if late:
        return Case(row.variant, seconds, "failure", f"missed the deadline of {deadline_ms:g} ms", said)
    if row.status == "failed" or (seconds is None and row.reason.startswith("not measured")):
        return Case(row.variant, seconds, "error", row.reason, said)
    if seconds is None:
        return Case(row.variant, None, "skipped", row.reason or row.status)
    return Case(row.variant, seconds, "passed", "", said)


def _changed(change: Change) -> Case:
    p50_ms = change.p50_ms[1]
    seconds = None if p50_ms is None else p50_ms / 1000
    became = f", status {change.status[0] or 'none'} then {change.status[1] or 'none'}"
    moved = "" if change.estimate is None else f", time {change.estimate.change:+.1%} against {change.estimate.against}"
    said = f"{change.verdict}{moved}{became}"
    if change.regression:
        return Case(change.variant, seconds, "failure", said, said)
    return Case(change.variant, seconds, "skipped" if change.verdict.startswith("not ") else "passed", said, said)


def to_junit(suite: str, measured: str, cases: Sequence[Case]) -> str:
    """Return test cases as JUnit's XML.

    Args:
        suite: Name of the suite.
        measured: When, as ISO 8601.
        cases: One a variant.
    """
    counted = {f"{kind}s" if kind != "skipped" else kind: 0 for kind in ("failure", "error", "skipped")}
    for case in cases:
        if case.outcome != "passed":
            counted[case.outcome if case.outcome == "skipped" else f"{case.outcome}s"] += 1
    total = {"tests": str(len(cases)), **{name: str(count) for name, count in counted.items()}}
    total["time"] = f"{sum(case.seconds or 0 for case in cases):.6f}"
    root = ElementTree.Element("testsuites", total)
    parent = ElementTree.SubElement(root, "testsuite", {"name": _text(suite), "timestamp": measured, **total})
    for case in cases:
        facts = {
            "classname": _text(suite.replace(" ", ".")),
            "name": _text(case.name),
            "time": f"{case.seconds or 0:.6f}",
        }
        element = ElementTree.SubElement(parent, "testcase", facts)
        if case.outcome != "passed":
            ElementTree.SubElement(element, case.outcome, {"message": _text(case.why)}).text = _text(case.why)
        if case.said:
            ElementTree.SubElement(element, "system-out").text = _text(case.said)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode", xml_declaration=False) + "\n"


def _text(text: str) -> str:
    return NOT_XML.sub("", text)


def to_benchmark_json(report: Report) -> str:
    """Return the times of a report's rows as github-action-benchmark reads them; what was not measured has none."""
    return json.dumps([entry for row in report.rows for entry in _entries(row, report)], indent=2) + "\n"


def _entries(row: Row, report: Report) -> Iterable[dict[str, object]]:
    spread = f"± {(max(row.starts_ms) - min(row.starts_ms)) / 2:.3g}" if len(row.starts_ms) > 1 else None
    machine = f"{report.machine.processor}, threads: {report.protocol.threads}"
    for name, value, around in (("p50", row.p50_ms, spread), ("p99", row.p99_ms, None)):
        if value is not None:
            entry: dict[str, object] = {"name": f"{row.variant} {name}", "unit": "ms", "value": value}
            yield entry | ({"range": around} if around else {}) | {"extra": f"{row.status}; {machine}"}


def _write(option: str, path: Path, text: str) -> None:
    with writable(path, UsageError, f"Choose another file for {option}."):
        write_atomically(path, text.encode())
