"""The options of ``xfer bench``, and what they ask the library for."""

from __future__ import annotations

import math
import shlex
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.measure import protocol
from benchmarks.measure.control_loop import GAPS, QUICK_GAPS
from benchmarks.measure.messages import Late, Pace
from benchmarks.measure.protocol import MIN_ROUNDS, Protocol
from benchmarks.report.decision import Limits
from export.libraries.cores import default_threads
from xfer.commands import Common
from xfer.errors import UsageError

OUTPUT_ONLY = ("json", "debug", "stream", "junit", "benchmark_json")
"""Options that change what is printed and written, and not what is measured."""


@dataclass(kw_only=True)
class Args(Common):
    """Measure how fast each variant of a bundle is here, against its reference, and write a report.

    What is timed is raw frame to action: host observation in, host action out, batch 1, on the bundle's own
    recorded frames. Variants take turns in rounds, each in a process of its own.

    Example commands:
      xfer bench cartpole.bundle
      xfer bench cartpole.bundle --quick --variants onnx-fp32,onnx-int8
      xfer bench cartpole.bundle --threads 1 --output report-one-thread
      xfer bench cartpole.bundle --deadline-ms 10
      xfer bench cartpole.bundle --rate-hz 50 --deadline-ms 10
      xfer bench cartpole.bundle --host user@robot
      xfer bench cartpole.bundle --cpp build
      xfer bench cartpole.bundle --quick --profile onnx-int8
      xfer bench cartpole.bundle --quick --variants onnx-int8 --soak 30
      xfer bench --check
    """

    bundle: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")] = None
    """The bundle's folder; --check needs none."""
    check: bool = False
    """Measure nothing: say what about this machine moves latencies, and the command that mends it. Fails if --threads
    or --variants ask for what cannot be had here."""
    variants: str = ""
    """Comma list of variants or targets, as onnx-int8,torchscript. Empty: all that the bundle has, with --profile that
    one alone. The reference (eager-fp32; of a policy that came as an ONNX graph onnx-fp32) is always measured."""
    threads: int = 0
    """Threads inside an operation, for all variants alike. 0: as many as --cores, else one for each of the fastest
    physical cores of one node that the container has time for, at most 8."""
    cores: str = ""
    """Comma list of the logical cores that all variants are bound to, as 0,1. Empty: the best ones, one a thread."""
    quick: bool = False
    """Measure at least 256 calls and 2 s a variant instead of 1,024 and 10 s; the figures are marked."""
    strict: bool = False
    """Measure at least 6,700 calls and 600 s a variant, which gives p99.9 too."""
    rounds: int = 0
    """Rounds, in each of which every variant has a few turns; at least 5. 0: 40, with --quick 20, with --strict 240."""
    spin: bool = False
    """Let idle threads spin between calls: faster, and rude to the rest of the robot. Whoever opens a bundle has to ask
    for it too."""
    rate_hz: float | None = None
    """Then run each variant in a control loop of this many ticks a second, in segments between those of the others."""
    seconds: float | None = None
    """How long the control loop runs. Default: 60, with --quick 10."""
    late: Late = "catch-up"
    """What becomes of ticks that fall due while the loop is still acting: catch-up acts on each at once, and drop on
    none of them; they count as missed."""
    deadline_ms: float | None = None
    """Longest acceptable time from raw frame to action, in milliseconds, of what the report says to ship. It is held
    against the control loop with --rate-hz, else against the bound of p99. Default: none; with --rate-hz, a period. The
    exit status is 1 if a variant misses it on the evidence; eager counts only if --variants names it."""
    max_miss_rate: float = Limits.max_miss_rate
    """Largest acceptable share of the control loop's ticks that miss the deadline. It is held against the 95 % bound:
    0.001 takes 2,995 ticks without a miss."""
    max_reward_drop: float = Limits.max_reward_drop
    """Largest acceptable loss of what the report says to ship, as a share of the reference return less the random
    return."""
    allow_provisional: bool = False
    """Let the report also say to ship variants that look clean on too few episodes for a proof."""
    on_recordings: bool = False
    """Let the report also say to ship variants that were shown to act as the reference does in recorded episodes."""
    batches: str = ""
    """Comma list of batches, as 1,4,16: then measure each variant's throughput at each."""
    profile: Annotated[str | None, tyro.conf.arg(metavar="VARIANT")] = None
    """Then tell where the time of this variant goes, layer by layer, by its library's own profiler, and which share of
    the machine's peak each layer reaches."""
    soak: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None
    """Then run one variant without a pause for so long, the one of --variants, else of --profile: drift, throttling,
    growth of memory. An interrupt ends it early and loses nothing."""
    output: Path | None = None
    """Folder of the report. Default: the folder 'report' next to the bundle."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that figures go to, where the bundle is read-only (default: in the bundle); as of xfer verify."""
    whole_backbone: bool = True
    """Also time the whole backbone, with random weights, where the policy taps an early stage of it."""
    cpp: Path | None = None
    """Folder of the built C++ runtime (with --host: there): measure each variant in it too, in the same rounds."""
    junit: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write JUnit's XML for continuous integration too: one test case a variant, which fails if that is rejected or
    misses the deadline."""
    benchmark_json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the times as github-action-benchmark reads them too (tool: customSmallerIsBetter)."""
    stream: bool = False
    """Print the report so far as one line of JSON after each round, for programs."""
    host: str | None = None
    """Measure there instead, as user@robot: over ssh, on a machine that has xfer installed."""
    remote_xfer: str = "xfer"
    """The command there."""


def protocol_of(args: Args) -> Protocol:
    """Return how much is measured, and how.

    Raises:
        UsageError: On a length, rounds, threads or cores that do not fit.
    """
    if args.quick and args.strict:
        raise UsageError("--quick and --strict contradict each other. Choose one.")
    if args.rounds and args.rounds < MIN_ROUNDS:
        raise UsageError(f"--rounds {args.rounds} is too few to tell a spread. Use {MIN_ROUNDS} or more.")
    usable = protocol.usable_cores()
    cores = _numbers("--cores", args.cores, least=0)
    if away := [core for core in cores if core not in usable]:
        there = ",".join(map(str, usable))
        raise UsageError(f"--cores {args.cores}: core {away[0]} cannot be used here. Choose from {there}.")
    most = len(cores or usable)
    if not 0 <= args.threads <= most:
        kind = "chosen" if cores else "usable"
        raise UsageError(f"--threads {args.threads} does not fit {most} {kind} cores. Use 1 to {most}.")
    form = protocol.quick if args.quick else protocol.strict if args.strict else protocol.full
    return replace(form(args.threads or len(cores) or default_threads(), args.rounds, cores), spin=args.spin)


def pace_of(args: Args) -> Pace | None:
    """Return the control loop's pace, or None if no loop was asked for.

    Raises:
        UsageError: On a rate or duration that is not a positive number.
    """
    if args.rate_hz is None:
        if args.seconds is not None:
            raise UsageError("--seconds is how long the control loop runs. Give its --rate-hz too.")
        if args.late != "catch-up":
            raise UsageError(f"--late {args.late} is of a control loop. Give its --rate-hz too.")
        return None
    for name, value in (("--rate-hz", args.rate_hz), ("--seconds", args.seconds)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} {value:g} is not a positive number.")
    seconds = args.seconds or (10.0 if args.quick else 60.0)
    gaps = QUICK_GAPS if args.quick else GAPS
    return Pace(args.rate_hz, seconds, gaps, args.late)


def limits_of(args: Args) -> Limits:
    """Return what a variant must keep to be shipped.

    Raises:
        UsageError: On a deadline or drop that means nothing.
    """
    allowed = args.allow_provisional, args.on_recordings
    return Limits(args.deadline_ms, args.max_reward_drop, *allowed, args.max_miss_rate).check()


def batches_of(args: Args) -> tuple[int, ...]:
    """Return the batches of the sweep.

    Raises:
        UsageError: On one that is not a positive whole number.
    """
    return _numbers("--batches", args.batches, least=1)


def _numbers(option: str, text: str, *, least: int) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdecimal() or int(part) < least]:
        raise UsageError(f"{option} {text}: '{wrong[0]}' is not a number from {least} on. Write a list like 1,4.")
    return tuple(dict.fromkeys(int(part) for part in parts))


def command_line(args: Args) -> str:
    """Return the command that repeats this measurement."""
    words = ["xfer", "bench", *([str(args.bundle)] if args.bundle else [])]
    for option in fields(args):
        value = getattr(args, option.name)
        if option.default is MISSING or value == option.default or option.name in ("bundle", *OUTPUT_ONLY):
            continue
        name = option.name.replace("_", "-")
        words += [f"--{name}"] if value is True else [f"--no-{name}"] if value is False else [f"--{name}", str(value)]
    return shlex.join(words)
