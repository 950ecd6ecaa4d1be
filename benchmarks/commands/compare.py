"""What `xfer compare` does: say for each variant of two reports whether it became faster, slower, or neither.

The two benches shared no rounds, so a variant is compared with the reference inside each round: one logarithm of a
ratio a round. A permutation test says what chance alone would make of those, for all variants at once.

Rounds are exchangeable within a bench, but a bench is also one start of each process, and where that puts its memory
shifts all of its rounds alike. No test on rounds can see this; the tolerance is there for it: a variant is slower only
if its whole interval lies beyond the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import tyro

from benchmarks.stats.permutation import simultaneous
from xfer.commands import Common
from xfer.errors import CheckFailed, UsageError
from xfer.files import from_json

if TYPE_CHECKING:
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
    tolerance: float = 0.02
    """Smallest change that matters, as a share of the time: what another start of the same process may make."""


@dataclass(frozen=True)
class Estimate:
    """How much the time of one variant changed.

    Attributes:
        change: As a share: 0.1 is 10 % slower.
        interval: Its bounds; those of all variants hold together with confidence 1 - alpha.
        p_value: Share of the dealings of rounds in which any variant seems to change as much as this one.
        against: ``eager`` if the reference ran in the same rounds, whichever it is; ``nothing`` where it is missing and
            plain times are compared.
    """

    change: float
    interval: tuple[float, float]
    p_value: float
    against: Literal["eager", "nothing"]


@dataclass(frozen=True)
class Change:
    """What became of one variant.

    Attributes:
        variant: Name of its row.
        verdict: ``faster``, ``slower``, ``no difference``, ``baseline``, ``new``, ``gone``, or ``not measured``.
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
    show(changes, result["notes"], args)
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
        UsageError: If nothing was measured in both, or in too few rounds to tell anything at ``alpha``.
    """
    before, after = _rows(old), _rows(new)
    times = _log_medians(old), _log_medians(new)
    shared = [name for name in after if name in times[0] and name in times[1]]
    if not shared:
        raise UsageError("No variant was measured in both reports. Compare two benches of one bundle's variants.")
    reference = new.reference
    estimates = _estimates(*times, [name for name in shared if name != reference], reference, alpha)
    changes = []
    for name in dict.fromkeys([*after, *before]):
        was, now = before.get(name), after.get(name)
        status = was.status if was else "", now.status if now else ""
        fell = was is not None and RANKS.get(status[1], 0) < RANKS.get(status[0], 0)
        if name in estimates:
            verdict = _verdict(estimates[name], tolerance)
        elif was is None:
            verdict = "new"
        elif now is None or (name in times[0] and name not in times[1]):
            verdict = "gone"
        else:
            verdict = "baseline" if name in shared else "not measured"
        worse = fell or verdict in ("slower", "gone")
        p50 = was.p50_ms if was else None, now.p50_ms if now else None
        changes.append(Change(name, verdict, worse, status, p50, estimates.get(name)))
    return changes


def _estimates(
    old: dict[str, np.ndarray], new: dict[str, np.ndarray], names: Sequence[str], reference: str, alpha: float
) -> dict[str, Estimate]:
    """Estimate how much the time of each variant changed: against the reference's if both have it, else as it is."""
    if not names:
        return {}
    paired = reference in old and reference in new
    before, after = (np.array([t[name] - (t[reference] if paired else 0.0) for name in names]) for t in (old, new))
    found = {}
    for name, middle, half, p_value in zip(names, *simultaneous(before, after, alpha), strict=True):
        interval = math.expm1(middle - half), math.expm1(middle + half)
        found[name] = Estimate(math.expm1(middle), interval, float(p_value), "eager" if paired else "nothing")
    return found


def _verdict(estimate: Estimate, tolerance: float) -> str:
    """Name a change by where its whole interval lies; 1 / (1 + tolerance) is as far from 1 as 1 + tolerance."""
    low, high = estimate.interval
    if low > tolerance:
        return "slower"
    return "faster" if high < 1 / (1 + tolerance) - 1 else "no difference"


def _rows(report: Report) -> dict[str, Row]:
    return {row.variant: row for row in report.rows if not row.whole_backbone}


def _log_medians(report: Report) -> dict[str, np.ndarray]:
    """Return for each variant that was measured the logarithm of its median in each whole round: float [rounds]."""
    rows = _rows(report)
    measured = {m.name: m.rounds for m in report.measurements if m.name in rows and m.rounds and not m.error}
    # A bench that was interrupted ended in the middle of a round.
    whole = min((len(rounds) for rounds in measured.values()), default=0)
    return {name: np.log([np.median(window) for window in rounds[:whole]]) for name, rounds in measured.items()}


def notes(old: Report, new: Report) -> list[str]:
    """Return what makes the two reports less than comparable, or their figures less than sure."""
    from benchmarks.report.conclusion import caveats
    from benchmarks.report.figures import interference_figures

    found = []

    def differ(what: str, facts: Sequence[object]) -> None:
        if facts[0] != facts[1]:
            found.append(f"{what}: {facts[0]} in the old report, {facts[1]} in the new one.")

    both = old, new
    differ("Different machines", [f"{r.machine.processor} ({r.machine.id})" for r in both])
    differ("Different systems", [f"{r.machine.system}, Python {r.machine.python}" for r in both])
    differ("Different threads", [r.protocol.threads for r in both])
    differ("Different tasks", [r.task for r in both])
    graphs = [r.provenances[0] for r in both]
    differ("Different graphs", [f"{g.backbone} to {g.tap}, {g.head}, {g.macs:,} MACs" for g in graphs])
    differ("Different weights", [g.weights[:12] for g in graphs])
    protocols = [r.protocol for r in both]
    differ("Different protocols", [f"{p.rounds} rounds, {p.calls:,} calls, {p.seconds:g} s" for p in protocols])
    libraries = [{m.name: m.libraries for m in r.measurements if m.libraries} for r in both]
    for name in sorted(set(libraries[0]) & set(libraries[1]) & set(_rows(new))):
        versions = [set(side[name].items()) for side in libraries]
        texts = [" ".join(f"{k} {v}" for k, v in sorted(versions[i] - versions[1 - i])) or "less" for i in (0, 1)]
        differ(f"Different libraries run {name}", texts)
    for word, report in zip(("old", "new"), both, strict=True):
        watched = [interference_figures(m) for m in report.measurements if m.disturbances]
        telling = [caveat for caveat in caveats(report, None, watched) if caveat.mark not in ("provisional", "slower")]
        found += [f"The {word} report: {caveat.text}" for caveat in telling]
        if new.reference not in _log_medians(report):
            found.append(
                f"The {word} report lacks {new.reference}: plain times are compared, whatever slowed the machine."
            )
    return found


def show(changes: Sequence[Change], notes: Sequence[str], args: Args) -> None:
    """Print the table, the notes, what cannot be excluded, and what the error rate is."""
    from rich.console import Console
    from rich.text import Text

    from benchmarks.report.terminal import grid_of

    console = Console()
    plain = any(change.estimate and change.estimate.against == "nothing" for change in changes)
    grid = grid_of("Variant", "Verdict", "Plain time" if plain else "Time against eager", "p50 in ms", left=4)
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
        console.print(f"More rounds on a quieter machine would show more: {variant} may be up to {most:.1%} slower.")
    console.print(f"Error rate {args.alpha:g} over all variants; less than {args.tolerance:.1%} is no difference.")


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    middle, low, high = (100 * value for value in (estimate.change, *estimate.interval))
    return f"{middle:+.1f} % ({low:+.1f}, {high:+.1f})"


def _p50(change: Change) -> str:
    before, after = ("n/a" if value is None else f"{value:.3g}" for value in change.p50_ms)
    return "" if before == after == "n/a" else f"{before} -> {after}"
