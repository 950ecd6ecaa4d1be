"""The bench: choose the candidates, measure them in turns, keep the figures in the bundle, return the report."""

from __future__ import annotations

import datetime
import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.measure import batch_sweep, conditions, control_loop, kernel, latency
from benchmarks.measure import cpp as cpp_runtime
from benchmarks.measure import whole_backbone as backbone
from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.messages import Pace
from benchmarks.measure.protocol import MIN_ROUNDS, Candidate, Measurement, Protocol, full, usable_cores
from benchmarks.report.data import Report
from benchmarks.report.decision import Limits, loop_record
from benchmarks.report.rows import RowBuilder
from export import targets
from export.bundle import records
from export.bundle.machine import this_machine
from export.bundle.manifest import Provenance
from export.bundle.reader import Bundle, why_not
from export.libraries import linux
from export.libraries.cores import default_threads
from xfer.errors import UnavailableError, UsageError, check_choice

OnStep = Callable[[str, str, float], None]
"""Is called before each step with a row's name, what comes next, and the share of the bench that is done, 0 to 1."""

OnReport = Callable[[Callable[[], Report]], None]
"""Is called in pauses with a function that returns the report so far."""


def bench(
    bundle: Bundle | str | Path,
    variants: str | Iterable[str] = (),
    protocol: Protocol | None = None,
    *,
    loop: Pace | None = None,
    batches: Sequence[int] = (),
    limits: Limits | None = None,
    whole_backbone: bool = True,
    cpp: Path | None = None,
    command: str = "",
    on_step: OnStep = lambda name, stage, done: None,
    on_report: OnReport = lambda so_far: None,
) -> Report:
    """Measure how fast the variants of a bundle are here, and keep the figures in its records.

    Example::

        report = bench("cartpole.bundle", ["onnx"], protocol.quick(threads=2))
        write(report, conclude(report), Path("report"))

    Args:
        bundle: The bundle, or its folder. Of one that is read-only: ``Bundle(path, records=folder)``.
        variants: Variants or targets, as ``onnx-int8`` or ``torchscript``, as a sequence or with commas between them;
            none: all that the bundle has. The reference is always measured.
        protocol: How much is measured, with how many threads; None: ``full`` with ``default_threads``.
        loop: Pace of the control loop in which each variant is then run, alone; None: there is none.
        batches: Batches at which throughput is measured too.
        limits: What a variant must keep to be shipped. With a loop and no deadline, that is one period.
        whole_backbone: Whether to time the whole backbone too, where the policy taps an early stage of it.
        cpp: Folder of the built C++ runtime, to measure each variant in it too.
        command: The command that repeats this, for the report.
        on_step: See ``OnStep``.
        on_report: See ``OnReport``.

    Returns:
        The whole report.

    Raises:
        UsageError: If the bundle has no such variant, a limit means nothing, or rounds or threads do not fit.
        UnavailableError: If a library is missing, or no variant can run here.
        BundleError: If the bundle is damaged or cannot be written to.
    """
    linux.require("xfer bench")
    check_libraries()
    cores = usable_cores()
    opened = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    limits, protocol = (limits or Limits()).check(), protocol or full(default_threads())
    if protocol.rounds < MIN_ROUNDS or not 1 <= protocol.threads <= len(cores):
        raise UsageError(
            f"{protocol.rounds} rounds with {protocol.threads} threads do not fit: use {MIN_ROUNDS} rounds or more, and"
            f" 1 to {len(cores)} threads."
        )
    if loop is not None and limits.deadline_ms is None:
        limits = replace(limits, deadline_ms=1000 / loop.rate_hz)
    names = choose(opened, variants)
    records.check_writable(opened)
    cannot_run = {name: reason for name in names if (reason := why_not(opened, name)) is not None}
    own = _own_candidates(opened, names, cannot_run, cpp)
    with tempfile.TemporaryDirectory(prefix="xfer-bench-") as temporary:
        beside = _Beside()
        if whole_backbone:
            beside = _whole_backbone(opened, [c.variant for c in own], Path(temporary, "whole.bundle"))
        candidates = [*own, *beside.candidates]
        provenances = (opened.manifest.provenance, *beside.provenances)
        known, execute = records.load(opened), opened.spec.action.execute
        rows = RowBuilder(opened.builds, known, names, cannot_run, candidates, provenances[-1], protocol, execute)
        report = Report(
            machine=this_machine(),
            measured=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=command,
            task=opened.spec.task,
            control_hz=opened.spec.control_hz,
            reward=opened.spec.reward,
            provenances=provenances,
            protocol=protocol,
            notes=(*_no_speedups(opened, cannot_run), *_planned(execute), *beside.notes),
            rows=(),
            measurements=(),
            bundle=str(opened.path),
            limits=limits,
            reference=opened.reference,
            conditions=conditions.check(protocol.bound, protocol.threads, on_gpu=any(c.on_gpu for c in own)),
        )
        report = _measure(report, rows, own, loop, batches, on_step, on_report)
    _keep(opened, report, rows)
    return report


def _measure(
    report: Report,
    rows: RowBuilder,
    own: Sequence[Candidate],
    loop: Pace | None,
    batches: Sequence[int],
    on_step: OnStep,
    on_report: OnReport,
) -> Report:
    """Fill a report: the rounds of all candidates, then control loops and batch sweep of the policy's own graph."""
    protocol, loops = report.protocol, list[ControlLoop]()
    short = batch_sweep.short(protocol)
    beside, less = [c for c in rows.candidates if rows.is_whole(c)], backbone.short(protocol)
    interleaved = [*(c for c in rows.candidates if not rows.is_whole(c)), kernel.candidate()]
    total = len(interleaved) * latency.steps_per_candidate(protocol) + len(own) * (loop is not None)
    total += len(beside) * latency.steps_per_candidate(less)
    total += len(own) * len(batches) * batch_sweep.steps(short)
    begun = 0

    def step(name: str, stage: str) -> None:
        nonlocal begun
        on_step(name, stage, begun / total)
        begun += 1

    def so_far(measured: dict[str, Measurement], why: str = "") -> Report:
        whole = {c.name: Measurement(c.name, c.variant) for c in beside}  # until it has its turn
        measurements = {**whole, **measured}
        given = tuple(measurements[candidate.name] for candidate in rows.candidates)
        drawn, common = rows.all(measurements), measurements[kernel.NAME]
        return replace(report, rows=drawn, measurements=given, loops=tuple(loops), partial=why, kernel=common)

    def on_round(done: int, measurements: dict[str, Measurement]) -> None:
        on_report(lambda: so_far(measurements, f"after round {done} of {protocol.rounds}"))

    measurements = latency.measure(interleaved, protocol, step, on_round)
    # After the others and in its own rounds: it has its own eager, and would only lengthen every pass.
    measurements |= latency.measure(beside, less, step) if beside else {}
    whole = [candidate for candidate in own if not measurements[candidate.name].error]
    if loop is not None:
        assert report.limits.deadline_ms is not None
        deadline_ms = report.limits.deadline_ms
        for one in control_loop.run(whole, protocol, loop, deadline_ms, lambda name: step(name, "control loop")):
            loops.append(one)
            why = f"after control loop {len(loops)} of {len(whole)}"
            on_report(lambda why=why: so_far(measurements, why))  # type: ignore[misc]
    sweep, missing = batch_sweep.run(whole, batches, short, step)
    return replace(so_far(measurements), sweep=tuple(sweep), notes=(*report.notes, *missing))


def _planned(execute: int) -> list[str]:
    """Say what times are of, where more than one action is acted of an inference."""
    if execute == 1:
        return []
    return [
        f"Times are of an inference, of which {execute} actions are acted: one tick of {execute} takes that long, the"
        f" others next to nothing. Shared by all, it is 1/{execute} an action."
    ]


def _keep(bundle: Bundle, report: Report, rows: RowBuilder) -> None:
    """Keep the figures in the bundle's records; a variant whose process failed loses those of earlier benches."""
    figures = rows.figures({one.name: one for one in report.measurements})
    loops = {loop.name: loop_record(loop) for loop in report.loops}
    for name in rows.names:
        if name in figures and (figures[name] or name in rows.known):
            records.save(bundle, name, latency=figures[name], loop=loops.get(name), measured=True)


def _own_candidates(
    bundle: Bundle, names: Sequence[str], cannot_run: dict[str, str], build: Path | None
) -> list[Candidate]:
    able = [name for name in names if name not in cannot_run]
    own = [Candidate(name, bundle.path, name, bundle.reference) for name in able]
    if not own:
        why = "; ".join(dict.fromkeys(f"{name}: {cannot_run[name]}" for name in names))
        raise UnavailableError(f"No variant of {bundle.path} can run here. {why}")
    return own if build is None else [*own, *cpp_runtime.candidates(own, build)]


def _no_speedups(bundle: Bundle, cannot_run: dict[str, str]) -> list[str]:
    if bundle.reference not in bundle.builds:
        return [f"No speed-ups: the bundle has no {bundle.reference} to compare with."]
    if bundle.reference not in cannot_run:
        return []
    return [f"No speed-ups: the reference {bundle.reference} cannot run here ({cannot_run[bundle.reference]})."]


@dataclass(frozen=True)
class _Beside:
    """The whole backbone, timed beside the policy's own graph: what is measured, and what is to say about it."""

    candidates: list[Candidate] = field(default_factory=list)
    provenances: list[Provenance] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _whole_backbone(bundle: Bundle, variants: list[str], path: Path) -> _Beside:
    sibling = backbone.build_sibling(bundle, bundle.golden(), variants, path)
    if isinstance(sibling, str):
        return _Beside(notes=[sibling])
    note = "The whole backbone was timed after the other rows, with fewer starts and calls."
    return _Beside(backbone.candidates(sibling), [sibling.manifest.provenance], [note])


def check_libraries() -> None:
    """Say early, and in one line, which library of the extra is missing.

    Raises:
        UnavailableError: With the command that installs it.
    """
    missing = [name for name in ("scipy", "matplotlib", "jinja2", "psutil") if not importlib.util.find_spec(name)]
    if missing:
        raise UnavailableError(f"{', '.join(missing)} is not installed: pip install 'xfer-policy[bench]'")


def choose(bundle: Bundle, asked: str | Iterable[str]) -> list[str]:
    """Return the variants that have a row: the reference first, then what was asked for.

    Args:
        bundle: The bundle.
        asked: Variants or targets, as a sequence or with commas between them; none: all builds, and beside an eager
            reference the same in channels_last.

    Raises:
        UsageError: If the bundle has no such variant, with the closest that it has.
        UnavailableError: If only a newer xfer knows it.
    """
    reference = bundle.reference
    first = [reference] if reference in bundle.builds else []
    names: list[str] = []
    parts = (part.strip() for part in (asked.split(",") if isinstance(asked, str) else asked))
    for one in filter(None, parts):
        bundle.check_known(one)
        present = [str(v) for v in targets.expand(one) if v.build in bundle.builds]
        names += present or [check_choice("variant", one.partition("@")[0], bundle.builds)]
    if not names:
        other_layout = [f"{reference}@channels_last"] if first and reference.startswith("eager-") else []
        names = [*other_layout, *bundle.builds]
    return list(dict.fromkeys([*first, *names]))
