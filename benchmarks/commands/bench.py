"""What ``xfer bench`` does: choose the candidates, measure them, keep the figures, write the report."""

from __future__ import annotations

import datetime
import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.commands import bench_options, progress
from benchmarks.commands.bench_options import Args, command_line
from benchmarks.measure import batch_sweep, control_loop, cpp, latency, whole_backbone
from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.protocol import Candidate, Measurement
from benchmarks.report import write
from benchmarks.report.rows import Rows
from export import targets
from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.reader import Bundle, why_not
from export.targets import BASELINE
from xfer.errors import UnavailableError, UsageError, check_choice

BESIDE_BASELINE = f"{BASELINE}@channels_last"


def main(args: Args) -> dict[str, Any]:
    """Run the command.

    Returns:
        What ``--json`` prints; see the design.

    Raises:
        UsageError: On an option that does not fit, or a variant that the bundle lacks.
        UnavailableError: If a library is missing, or no variant can run here.
        BundleError: If the bundle is damaged or cannot be written to.
        XferError: If another machine was to measure, and could not.
    """
    if args.host is not None:  # its options are checked against the cores there
        from benchmarks.commands import bench_remote

        return bench_remote.main(args)
    protocol, pace, batches = (
        bench_options.protocol_of(args),
        bench_options.pace_of(args),
        bench_options.batches_of(args),
    )
    check_libraries()
    from benchmarks.report import data, terminal
    from benchmarks.report.partial import Partial

    bundle = Bundle(args.bundle)
    golden = bundle.golden()
    output = _folder(args.output or bundle.path.resolve().parent / "report")
    names = choose(bundle, args.variants)
    idle = {name: reason for name in names if (reason := why_not(bundle, name)) is not None}
    own = [Candidate(name, bundle.path, name) for name in names if name not in idle]
    if not own:
        raise UnavailableError(f"No variant of {bundle.path} can run here: {next(iter(idle.values()))}")
    if args.cpp is not None:
        own += cpp.candidates(own, args.cpp)
    notes = []
    if BASELINE in idle:
        notes.append(f"No speed-ups: the baseline {BASELINE} cannot run here ({idle[BASELINE]}).")
    provenances = [bundle.manifest.provenance]
    candidates = [*own]
    with tempfile.TemporaryDirectory(prefix="xfer-bench-") as temporary:
        if args.whole_backbone:
            path = Path(temporary, "whole.bundle")
            sibling = whole_backbone.build_sibling(bundle, golden, [c.variant for c in own], path)
            if isinstance(sibling, str):
                notes.append(sibling)
            else:
                candidates += whole_backbone.candidates(sibling)
                provenances.append(sibling.manifest.provenance)
        del golden
        rows = Rows(bundle, names, idle, candidates, provenances[-1], protocol)
        empty = data.Report(
            machine=this_machine(),
            measured=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=command_line(args),
            task=bundle.spec.task,
            control_hz=bundle.spec.control_hz,
            reward=bundle.spec.reward,
            provenances=tuple(provenances),
            protocol=protocol,
            notes=tuple(notes),
            rows=(),
            measurements=(),
            bundle=str(args.bundle),
        )
        partial = Partial(output, stream=args.stream)
        loops: list[ControlLoop] = []

        def so_far(measurements: dict[str, Measurement], why: str = "") -> data.Report:
            given = tuple(measurements.values())
            return replace(empty, rows=rows.all(measurements), measurements=given, loops=tuple(loops), partial=why)

        def on_round(done: int, measurements: dict[str, Measurement]) -> None:
            partial.publish(lambda: so_far(measurements, f"after round {done} of {protocol.rounds}"))

        steps = len(candidates) * latency.steps_per_candidate(protocol) + len(own) * (pace is not None)
        short = batch_sweep.short(protocol)
        steps += len(own) * len(batches) * batch_sweep.steps(short)
        with progress.bar(steps) as on_step:
            measurements = latency.measure(candidates, protocol, on_step, on_round)
            whole = [candidate for candidate in own if not measurements[candidate.name].error]
            if pace is not None:
                for loop in control_loop.run(whole, protocol, *pace, lambda name: on_step(name, "control loop")):
                    loops.append(loop)
                    why = f"after control loop {len(loops)} of {len(whole)}"
                    partial.publish(lambda why=why: so_far(measurements, why))  # type: ignore[misc]
            sweep, missing = batch_sweep.run(whole, batches, short, on_step)
        result = replace(so_far(measurements), sweep=tuple(sweep), notes=(*notes, *missing))

    for name, figures in rows.figures(measurements).items():
        if figures is not None and name in names:
            records.save(bundle, name, latency=figures)
    paths = write.write(result, output)
    terminal.show(result, paths)
    return {
        "variants": [records.printed(row) for row in result.rows],
        "machine": msgspec.to_builtins(result.machine),
        "report": paths,
        "loops": [_loop_row(loop) for loop in loops],
        "sweep": msgspec.to_builtins(sweep),
    }


def _loop_row(loop: ControlLoop) -> dict[str, Any]:
    done = bool(loop.latencies_ms)
    return {
        "variant": loop.name,
        "rate_hz": loop.rate_hz,
        "deadline_ms": loop.deadline_ms,
        "ticks": len(loop.latencies_ms),
        "missed": loop.missed,
        "worst_ms": loop.worst_ms if done else None,
        "jitter_ms": loop.jitter_ms if done else None,
        "error": loop.error,
    }


def check_libraries() -> None:
    """Say early, and in one line, which library of the extra is missing.

    Raises:
        UnavailableError: With the command that installs it.
    """
    missing = [name for name in ("scipy", "matplotlib", "jinja2", "psutil") if not importlib.util.find_spec(name)]
    if missing:
        raise UnavailableError(f"{', '.join(missing)} is not installed: pip install 'xfer-policy[bench]'")


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UsageError(f"{path} {error.strerror}. Choose another --output.") from error
    return path


def choose(bundle: Bundle, text: str) -> list[str]:
    """Return the rows' variants, the baseline first, then eager in channels_last, then what was asked for.

    Raises:
        UsageError: If the bundle has no such variant, with the closest that it has.
    """
    if not text:
        names = [BASELINE, BESIDE_BASELINE, *bundle.builds] if BASELINE in bundle.builds else [*bundle.builds]
        return list(dict.fromkeys(names))
    asked: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        present = [str(v) for v in targets.expand(part) if v.build in bundle.builds]
        asked += present or [check_choice("variant", part.partition("@")[0], bundle.builds)]
    return list(dict.fromkeys([*([BASELINE] if BASELINE in bundle.builds else []), *asked]))
