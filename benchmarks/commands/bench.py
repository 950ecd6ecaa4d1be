"""What ``xfer bench`` does: parse the options, bench, write and show the report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.commands import alone, bench_options, ci
from benchmarks.commands.bench_options import Args
from benchmarks.commands.deadline import judged
from benchmarks.measure.control_loop import ControlLoop
from benchmarks.report.data import Report
from export.bundle import records
from export.bundle.reader import Bundle
from xfer.errors import UsageError


def main(args: Args) -> dict[str, Any]:
    """Run the command.

    Returns:
        What ``--json`` prints.

    Raises:
        UsageError: On an option that does not fit, or a variant that the bundle lacks.
        UnavailableError: If a library is missing, or no variant can run here.
        BundleError: If the bundle is damaged or cannot be written to.
        XferError: If another machine was to measure, and could not.
        CheckFailed: If a variant misses the deadline. With --check, if something that was asked for cannot be had here.
    """
    if args.check:
        from benchmarks.commands import check

        return check.main(args)
    if args.bundle is None:
        raise UsageError("Which bundle? xfer bench BUNDLE. Without one there is xfer bench --check.")
    ci.check(args.junit, args.benchmark_json)
    if args.host is not None:  # its options are checked against the cores there
        from benchmarks.commands import bench_remote

        return bench_remote.main(args)
    from benchmarks.bench import bench, check_libraries

    protocol, pace, batches, limits = (
        bench_options.protocol_of(args),
        bench_options.pace_of(args),
        bench_options.batches_of(args),
        bench_options.limits_of(args),
    )
    check_libraries()
    from benchmarks.commands.partial import Partial
    from benchmarks.report import progress, terminal, write
    from benchmarks.report.conclusion import conclude

    bundle = Bundle(args.bundle, args.records)  # before a folder is made for its report
    records.check_writable(bundle)
    wish = alone.wish_of(args, bundle)
    output = writable(args.output or args.bundle.resolve().parent / "report")
    publish = Partial(output, stream=args.stream).publish
    with progress.bar() as on_step:
        report = bench(
            bundle,
            wish.variants(args.variants),
            protocol,
            loop=pace,
            batches=batches,
            limits=limits,
            whole_backbone=args.whole_backbone,
            cpp=args.cpp,
            command=bench_options.command_line(args),
            on_step=on_step,
            on_report=publish,
        )
        report = alone.add(report, bundle.path, wish, on_step, publish)
    findings = conclude(report)
    paths = write.write(report, findings, output)
    terminal.show(report, findings, paths)
    ci.write(report, args.variants, args.junit, args.benchmark_json)
    return judged(report, answer(report, paths), args.variants)


def answer(report: Report, paths: dict[str, str]) -> dict[str, Any]:
    """Return what ``--json`` prints of a report and the paths of its files."""
    return {
        "variants": [row.plain(picture=False) for row in report.rows],
        "machine": msgspec.to_builtins(report.machine),
        "report": paths,
        "loops": [_loop_row(loop, report.limits.max_miss_rate) for loop in report.loops],
        "sweep": msgspec.to_builtins(report.sweep),
        "conditions": msgspec.to_builtins(report.conditions),
        "peaks": msgspec.to_builtins(report.peaks),
        "profile": msgspec.to_builtins(report.profile),
        "soak": msgspec.to_builtins(report.soak),
    }


def _loop_row(loop: ControlLoop, max_miss_rate: float) -> dict[str, Any]:
    from benchmarks.report.figures import loop_figures

    done, found = bool(loop.latencies_ms), loop_figures(loop, max_miss_rate)
    return {
        "variant": loop.name,
        "rate_hz": loop.rate_hz,
        "deadline_ms": loop.deadline_ms,
        "ticks": loop.ticks,
        "missed": loop.missed,
        "verdict": found.verdict,
        "miss_rate_upper": found.miss_rate_upper,
        "more_ticks": found.more_ticks,
        "dropped": loop.dropped,
        "idle_cores": loop.idle_cores,
        "disturbed": loop.disturbed,
        "worst_ms": loop.worst_ms if done else None,
        "jitter_ms": loop.jitter_ms if done else None,
        "error": loop.error,
    }


def writable(folder: Path) -> Path:
    """Make a folder for the report.

    Raises:
        UsageError: If it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f"{folder} {error.strerror}. Choose another --output.") from error
    return folder
