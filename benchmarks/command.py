"""What ``xfer bench`` does: choose the contestants, measure them, keep the figures, write the report."""

from __future__ import annotations

import datetime
import importlib.util
import shlex
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import tyro

from benchmarks import latency, whole_backbone
from benchmarks.latency import Contestant, Measurement, Protocol
from export import records, target
from export.bundle import Bundle, Provenance
from export.records import Latency
from export.target import Variant
from xfer.arguments import Common
from xfer.errors import UnavailableError, UsageError, check_choice

BASELINE = "eager-fp32"
BESIDE_BASELINE = "eager-fp32@channels_last"
LEAST_ROUNDS = 5
NO_LATENCY = {field.name: None for field in fields(Latency)}


@dataclass(kw_only=True)
class Args(Common):
    """Measure how fast each variant of a bundle is here, against eager, and write a report.

    What is timed is raw frame to action: host observation in, host action out, batch 1, on the bundle's own
    recorded frames. Variants take turns in rounds, each in a process of its own.

    Example commands:
      xfer bench cartpole.bundle
      xfer bench cartpole.bundle --quick --variants onnx-fp32,onnx-int8
      xfer bench cartpole.bundle --threads 1 --output report-one-thread
    """

    bundle: tyro.conf.Positional[Path]
    """The bundle's folder."""
    variants: str = ""
    """Comma list of variants or targets, as onnx-int8,torchscript. Empty: all that the bundle has. The
    baseline eager-fp32 is always measured."""
    threads: int = 0
    """Threads inside an operation, for all variants alike. 0: as many as there are usable cores."""
    quick: bool = False
    """Measure at least 256 calls and 2 s a variant instead of 1,024 and 10 s; the figures are marked."""
    rounds: int = LEAST_ROUNDS
    """How often each variant takes its turn; at least 5."""
    output: Path | None = None
    """Folder of the report. Default: the folder 'report' next to the bundle."""
    whole_backbone: bool = True
    """Also time the whole backbone, with random weights, where the policy taps an early stage of it."""


def main(args: Args) -> dict[str, Any]:
    """Run the command.

    Returns:
        What ``--json`` prints; see the design.

    Raises:
        UsageError: On an option that does not fit, or a variant that the bundle lacks.
        UnavailableError: If a library is missing, or no variant can run here.
        BundleError: If the bundle is damaged or cannot be written to.
    """
    check_libraries()
    from benchmarks import report, terminal

    protocol = _protocol(args)
    bundle = Bundle(args.bundle)
    golden = bundle.golden()
    output = _folder(args.output or bundle.path.resolve().parent / "report")
    names = choose(bundle, args.variants)
    idle = {name: reason for name in names if (reason := why_not(bundle, name)) is not None}
    contestants = [Contestant(name, bundle.path, name) for name in names if name not in idle]
    if not contestants:
        raise UnavailableError(f"No variant of {bundle.path} can run here: {next(iter(idle.values()))}")
    notes = []
    if BASELINE in idle:
        notes.append(f"No speed-ups: the baseline {BASELINE} cannot run here ({idle[BASELINE]}).")
    provenances = [bundle.manifest.provenance]
    with tempfile.TemporaryDirectory(prefix="xfer-bench-") as temporary:
        if args.whole_backbone:
            present = [contestant.variant for contestant in contestants]
            path = Path(temporary, "whole.bundle")
            sibling = whole_backbone.build_sibling(bundle, golden, present, path)
            if isinstance(sibling, str):
                notes.append(sibling)
            else:
                contestants += whole_backbone.contestants(sibling)
                provenances.append(sibling.manifest.provenance)
        del golden
        measurements = _measure(contestants, protocol)
        sizes = {c.name: Bundle(c.bundle).build(c.variant).size_bytes for c in contestants}

    figures = _summarise(contestants, measurements, protocol)
    for name in names:
        if (latency_ := figures.get(name)) is not None:
            records.save(bundle, name, latency=latency_)
    rows = _rows(bundle, names, idle, measurements, figures)
    rows += [_whole_row(c, measurements, figures, sizes, provenances[-1]) for c in contestants if c.name not in names]
    result = report.Report(
        machine=records.this_machine(),
        measured=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command_line(args),
        task=bundle.spec.task,
        control_hz=bundle.spec.control_hz,
        reward=bundle.spec.reward,
        provenances=tuple(provenances),
        protocol=protocol,
        notes=tuple(notes),
        rows=tuple(rows),
        measurements=tuple(measurements.values()),
    )
    paths = report.write(result, output)
    terminal.show(result, paths)
    return {"variants": rows, "machine": msgspec.to_builtins(result.machine), "report": paths}


def check_libraries() -> None:
    """Say early, and in one line, which library of the extra is missing.

    Raises:
        UnavailableError: With the command that installs it.
    """
    missing = [name for name in ("scipy", "matplotlib", "jinja2") if not importlib.util.find_spec(name)]
    if missing:
        raise UnavailableError(f"{', '.join(missing)} is not installed: pip install 'xfer-policy[bench]'")


def _protocol(args: Args) -> Protocol:
    cores = len(latency.usable_cores())
    if args.rounds < LEAST_ROUNDS:
        raise UsageError(f"--rounds {args.rounds} is too few to tell a spread. Use {LEAST_ROUNDS} or more.")
    if not 0 <= args.threads <= cores:
        raise UsageError(f"--threads {args.threads} does not fit {cores} usable cores. Use 1 to {cores}.")
    form = latency.quick if args.quick else latency.full
    return form(args.threads or cores, args.rounds)


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
        present = [str(v) for v in target.expand(part) if v.build in bundle.builds]
        asked += present or [check_choice("variant", part.partition("@")[0], bundle.builds)]
    return list(dict.fromkeys([*([BASELINE] if BASELINE in bundle.builds else []), *asked]))


def why_not(bundle: Bundle, name: str) -> str | None:
    """Return why a variant cannot be measured here, or None if it can."""
    variant = Variant.parse(name)
    build = bundle.builds[variant.build]
    if build.status != "built":
        return build.reason
    return target.load(variant.target).runnable(variant.place)


def _measure(contestants: list[Contestant], protocol: Protocol) -> dict[str, Measurement]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        total = len(contestants) * latency.steps_per_contestant(protocol)
        bar = progress.add_task("bench", total=total)
        begun = 0

        def on_step(name: str, stage: str) -> None:
            nonlocal begun
            progress.update(bar, completed=begun, description=f"{name}: {stage}")
            begun += 1

        return latency.measure(contestants, protocol, on_step)


def _summarise(
    contestants: list[Contestant], measurements: dict[str, Measurement], protocol: Protocol
) -> dict[str, Latency | None]:
    from benchmarks.summary import summarise

    return {c.name: summarise(measurements[c.name], measurements.get(c.baseline), protocol) for c in contestants}


def _rows(
    bundle: Bundle,
    names: list[str],
    idle: dict[str, str],
    measurements: dict[str, Measurement],
    figures: dict[str, Latency | None],
) -> list[dict[str, Any]]:
    known = records.load(bundle)
    rows = []
    for name in names:
        row = records.as_row(name, bundle.builds[name.partition("@")[0]], known.get(name))
        measured = figures.get(name)
        row |= msgspec.to_builtins(measured) if measured else NO_LATENCY
        if name in idle and row["status"] == "built":
            row["reason"] = bundle.builds[name.partition("@")[0]].not_run(idle[name])
        elif name in measurements and measurements[name].error:
            row["reason"] = f"not measured: {measurements[name].error}"
        rows.append({**row, "whole_backbone": False})
    return rows


def _whole_row(
    contestant: Contestant,
    measurements: dict[str, Measurement],
    figures: dict[str, Latency | None],
    sizes: dict[str, int],
    provenance: Provenance,
) -> dict[str, Any]:
    verification = msgspec.to_builtins(records.Verification("built"))
    measured = figures[contestant.name]
    error = measurements[contestant.name].error
    return {
        "variant": contestant.name,
        **verification,
        "reason": f"not measured: {error}" if error else provenance.run,
        "size_bytes": sizes[contestant.name],
        **(msgspec.to_builtins(measured) if measured else NO_LATENCY),
        "whole_backbone": True,
    }


def command_line(args: Args) -> str:
    """Return the command that repeats this measurement."""
    words = ["xfer", "bench", str(args.bundle)]
    words += ["--variants", args.variants] if args.variants else []
    words += ["--threads", str(args.threads)] if args.threads else []
    words += ["--quick"] if args.quick else []
    words += ["--rounds", str(args.rounds)] if args.rounds != LEAST_ROUNDS else []
    words += ["--output", str(args.output)] if args.output else []
    words += [] if args.whole_backbone else ["--no-whole-backbone"]
    return shlex.join(words)
