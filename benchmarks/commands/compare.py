"""What `xfer compare` does: say for each variant of two reports whether it became faster, slower, or neither.

The two benches shared no rounds, so a variant is compared with the reference inside each round. A process keeps its
place in memory for as long as it lives, and that moves all its rounds alike: what is exchangeable is a start of the
processes, which gives one logarithm of a ratio, the mean over its rounds. A permutation test says what chance alone
would make of those, for all variants at once.

A reference that itself changed is no measure. Where other libraries run it, the reference kernel that both benches
timed (``benchmarks/measure/kernel.py``) takes its place; where they have none in common, nothing is said about times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import tyro

from benchmarks.commands import ci
from benchmarks.measure.kernel import NAME
from benchmarks.stats import starts
from benchmarks.stats.changes import TOLERANCE, Estimate, Times, estimate, verdict_on
from xfer.commands import Common
from xfer.errors import CheckFailed, UsageError
from xfer.files import from_json

if TYPE_CHECKING:
    from benchmarks.measure.protocol import Measurement
    from benchmarks.report.data import Report
    from benchmarks.report.rows import Row

RANKS = {"verified": 3, "provisional": 2, "built": 1}
"""A status that loses rank is a regression; all others rank 0."""


@dataclass(kw_only=True)
class Args(Common):
    """Say for each variant of two reports whether it became faster, slower, or neither.

    Exits non-zero if a variant became slower, lost its status, or is gone: for continuous integration.

    Example commands:
      xfer compare main/report.json branch/report.json
      xfer compare old.json new.json --tolerance 0.05
    """

    old: tyro.conf.Positional[Path]
    """The report.json to compare with."""
    new: tyro.conf.Positional[Path]
    """The report.json in question."""
    alpha: float = 0.05
    """Error rate of the whole comparison: how often benches of the same policy may seem to differ."""
    tolerance: float = TOLERANCE
    """Smallest change that matters, as a share of the time."""
    junit: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write JUnit's XML for continuous integration too: one test case a variant, which fails if it became worse."""
    benchmark_json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the new report's times as github-action-benchmark reads them too (tool: customSmallerIsBetter)."""


@dataclass(frozen=True)
class Basis:
    """What times of two reports are measured by.

    Attributes:
        against: See ``Estimate``; ``nothing`` if they have no common measure.
        why: Why it is not the reference, as a sentence, or empty.
    """

    against: Literal["eager", "kernel", "nothing"]
    why: str = ""


@dataclass(frozen=True)
class Change:
    """What became of one variant.

    Attributes:
        variant: Name of its row.
        verdict: ``faster``, ``slower``, ``no difference``, ``baseline``, ``new``, ``gone``, ``not measured``, or
            ``not comparable`` where the reports have no common measure.
        regression: Whether it is slower, gone, or lost its status.
        status: Its status in the old and the new report; empty where a report lacks it.
        p50_ms: Its median in both, whatever slowed the machine included.
        estimate: How much its time changed, where that can be told.
    """

    variant: str
    verdict: str
    regression: bool
    status: tuple[str, str]
    p50_ms: tuple[float | None, float | None]
    estimate: Estimate | None


def main(args: Args) -> dict[str, Any]:
    """Run the command.

    Returns:
        What ``--json`` prints.

    Raises:
        UsageError: On a file that is no report, or an option that does not fit.
        UnavailableError: If a library is missing.
        CheckFailed: If there is a regression.
    """
    from benchmarks.bench import check_libraries

    check_libraries()
    if not 0 < args.alpha < 1:
        raise UsageError(f"--alpha {args.alpha:g} is no error rate. Choose one between 0 and 1, as 0.05.")
    if args.tolerance < 0:
        raise UsageError(f"--tolerance {args.tolerance:g} is negative. Choose 0 or more, as 0.02.")
    old, new = read(args.old), read(args.new)
    changes = compare(old, new, args.alpha, args.tolerance)
    result = {
        "variants": msgspec.to_builtins(changes),
        "notes": notes(old, new),
        "alpha": args.alpha,
        "tolerance": args.tolerance,
        "regressions": [change.variant for change in changes if change.regression],
    }
    show(changes, result["notes"], args, new.reference)
    ci.write_comparison(changes, new, args.junit, args.benchmark_json)
    if result["regressions"]:
        raise CheckFailed(f"{args.new} is worse than {args.old}: {', '.join(result['regressions'])}.", result)
    return result


def read(path: Path) -> Report:
    """Read a ``report.json``.

    Raises:
        UsageError: If it is missing, no report, or of a newer schema.
    """
    from benchmarks.report.data import SCHEMA, Report

    try:
        data = path.read_bytes()
        schema = from_json(data, _SchemaOnly).schema
        if schema[0] != SCHEMA[0]:
            raise UsageError(f"{path} has schema {schema[0]}.{schema[1]}; this xfer reads {SCHEMA[0]}.x. Bench again.")
        return from_json(data, Report)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}. Name the report.json of an xfer bench.") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is no report.json of an xfer bench: {error}.") from error


class _SchemaOnly(msgspec.Struct):
    schema: tuple[int, int]


def compare(old: Report, new: Report, alpha: float, tolerance: float) -> list[Change]:
    """Compare the variants of two reports, in the new one's order; whole backbones are left out.

    Raises:
        UsageError: If one is of a quick bench, nothing was measured in both, or in too few starts to tell anything at
            ``alpha``.
    """
    for word, report in (("old", old), ("new", new)):
        if report.protocol.quick:
            raise UsageError(f"The {word} report is of a quick bench: too few starts to tell. Bench without --quick.")
    before, after = _rows(old), _rows(new)
    times = _times(old), _times(new)
    shared = [name for name in after if name in times[0] and name in times[1]]
    if not shared:
        raise UsageError("No variant was measured in both reports. Compare two benches of one bundle's variants.")
    against = basis(old, new).against
    estimates = {}
    if against != "nothing":
        measure = NAME if against == "kernel" else new.reference
        estimates = estimate(*times, [name for name in shared if name != measure], measure, against, alpha)
    changes = []
    for name in dict.fromkeys([*after, *before]):
        was, now = before.get(name), after.get(name)
        status = was.status if was else "", now.status if now else ""
        fell = was is not None and RANKS.get(status[1], 0) < RANKS.get(status[0], 0)
        if name in estimates:
            verdict = verdict_on(estimates[name], tolerance)
        elif was is None:
            verdict = "new"
        elif now is None or (name in times[0] and name not in times[1]):
            verdict = "gone"
        elif name not in shared:
            verdict = "not measured"
        else:
            verdict = "not comparable" if against == "nothing" else "baseline"
        worse = fell or verdict in ("slower", "gone")
        p50 = was.p50_ms if was else None, now.p50_ms if now else None
        changes.append(Change(name, verdict, worse, status, p50, estimates.get(name)))
    return changes


def basis(old: Report, new: Report) -> Basis:
    """Return what the times of two reports are measured by: the reference, unless that itself changed."""
    why = _changed(old, new)
    if not why:
        return Basis("eager")
    kernels = [report.kernel for report in (old, new)]
    if not all(kernel and kernel.rounds and not kernel.error for kernel in kernels):
        return Basis("nothing", f"{why}, and a report lacks the reference kernel: nothing is said about times.")
    if kernels[0].libraries != kernels[1].libraries:  # type: ignore[union-attr]
        return Basis("nothing", f"{why}, and the reference kernel differs too: nothing is said about times.")
    return Basis("kernel", f"{why}: times are compared with the reference kernel's.")


def _changed(old: Report, new: Report) -> str:
    """Say how the reference changed between two reports, or return an empty string."""
    name = new.reference
    if old.reference != name:
        return f"The reference is another one ({old.reference}, then {name})"
    found = [_measured(report).get(name) for report in (old, new)]
    for word, one in zip(("old", "new"), found, strict=True):
        if one is None:
            return f"The {word} report lacks {name}"
    facts = [(one.libraries, r.machine.python) for one, r in zip(found, (old, new), strict=True) if one]
    if facts[0] != facts[1]:
        return f"{name} is run by other libraries"
    graphs = [(p.backbone, p.tap, p.head, p.macs) for p in (old.provenances[0], new.provenances[0])]
    return f"{name} is another graph" if graphs[0] != graphs[1] else ""


def _rows(report: Report) -> dict[str, Row]:
    return {row.variant: row for row in report.rows if not row.whole_backbone}


def _measured(report: Report) -> dict[str, Measurement]:
    """Return what was measured to the end, by row; whole backbones are left out."""
    rows = _rows(report)
    return {m.name: m for m in report.measurements if m.name in rows and m.rounds and not m.error}


def _times(report: Report) -> Times:
    """Return the logarithms of medians by row, start and round, of the reference kernel too."""
    measured = list(_measured(report).values())
    if report.kernel is not None and report.kernel.rounds and not report.kernel.error:
        measured.append(report.kernel)
    return {one.name: starts.log_medians(one.by_start()) for one in measured}


def notes(old: Report, new: Report) -> list[str]:
    """Return what makes the two reports less than comparable, or their figures less than sure."""
    from benchmarks.report.conclusion import caveats
    from benchmarks.report.figures import interferences

    found = []

    def differ(what: str, facts: Sequence[object]) -> None:
        if facts[0] != facts[1]:
            found.append(f"{what}: {facts[0]} in the old report, {facts[1]} in the new one.")

    both = old, new
    differ("Different machines", [f"{r.machine.processor} ({r.machine.id})" for r in both])
    differ("Different systems", [f"{r.machine.system}, Python {r.machine.python}" for r in both])
    differ("Different threads", [r.protocol.threads for r in both])
    differ("Different waiting", [" and ".join(sorted({_waiting(m) for m in r.measurements})) for r in both])
    differ("Different tasks", [r.task for r in both])
    graphs = [r.provenances[0] for r in both]
    differ("Different graphs", [f"{g.backbone} to {g.tap}, {g.head}, {g.macs:,} MACs" for g in graphs])
    differ("Different weights", [g.weights[:12] for g in graphs])
    protocols = [r.protocol for r in both]
    differ(
        "Different protocols",
        [f"{p.starts} starts, {p.rounds} rounds, {p.calls:,} calls, {p.seconds:g} s" for p in protocols],
    )
    libraries = [{m.name: m.libraries for m in r.measurements if m.libraries} for r in both]
    for name in sorted(set(libraries[0]) & set(libraries[1]) & set(_rows(new))):
        versions = [set(side[name].items()) for side in libraries]
        texts = [" ".join(f"{k} {v}" for k, v in sorted(versions[i] - versions[1 - i])) or "less" for i in (0, 1)]
        differ(f"Different libraries run {name}", texts)
    for word, report in zip(("old", "new"), both, strict=True):
        telling = [
            caveat
            for caveat in caveats(report, None, interferences(report))
            if caveat.mark not in ("provisional", "slower")
        ]
        found += [f"The {word} report: {caveat.text}" for caveat in telling]
    return [*found, *filter(None, [basis(old, new).why])]


def _waiting(measurement: Measurement) -> str:
    return "threads that spin between calls" if measurement.spin else "threads that sleep between calls"


def show(changes: Sequence[Change], notes: Sequence[str], args: Args, reference: str) -> None:
    """Print the table, the notes, what cannot be excluded, and what the error rate is."""
    from rich.console import Console
    from rich.text import Text

    from benchmarks.report.table import short
    from benchmarks.report.terminal import grid_of

    console = Console()
    kernel = any(change.estimate and change.estimate.against == "kernel" for change in changes)
    grid = grid_of(
        "Variant", "Verdict", f"Time against {'kernel' if kernel else short(reference)}", "p50 in ms", left=4
    )
    for change in changes:
        color = "red" if change.regression else "green" if change.verdict == "faster" else ""
        cells = (change.variant, _percent(change.estimate), _p50(change))
        grid.add_row(cells[0], Text(change.verdict, color), *cells[1:])
    console.print(grid)
    for change in changes:
        if change.status[0] != change.status[1]:
            before, after = (status or "not there" for status in change.status)
            console.print(Text(f"{change.variant}: {before} -> {after}", "red" if change.regression else ""))
    for note in notes:
        console.print(Text(note))
    unseen = [(c.estimate.interval[1], c.variant) for c in changes if c.estimate and c.verdict == "no difference"]
    if unseen:
        most, variant = max(unseen)
        console.print(f"A longer bench (--strict) would show more: {variant} may be up to {most:.1%} slower.")
    console.print(f"Error rate {args.alpha:g} over all variants; less than {args.tolerance:.1%} is no difference.")


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    middle, low, high = (100 * value for value in (estimate.change, *estimate.interval))
    return f"{middle:+.1f} % ({low:+.1f}, {high:+.1f})"


def _p50(change: Change) -> str:
    before, after = ("n/a" if value is None else f"{value:.3g}" for value in change.p50_ms)
    return "" if before == after == "n/a" else f"{before} -> {after}"
