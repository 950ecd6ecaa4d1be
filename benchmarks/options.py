"""What the options of ``xfer bench`` ask for, and a clear line about those that do not fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from benchmarks.measure import protocol
from benchmarks.measure.control_loop import GAPS, QUICK_GAPS
from benchmarks.measure.messages import Pace
from benchmarks.measure.protocol import Protocol
from xfer.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.command import Args

LEAST_ROUNDS = 5


def protocol(args: Args) -> Protocol:
    """Return how much is measured, and how.

    Raises:
        UsageError: On a length, rounds, threads or cores that do not fit.
    """
    if args.quick and args.strict:
        raise UsageError("--quick and --strict contradict each other. Choose one.")
    if args.rounds and args.rounds < LEAST_ROUNDS:
        raise UsageError(f"--rounds {args.rounds} is too few to tell a spread. Use {LEAST_ROUNDS} or more.")
    usable = protocol.usable_cores()
    cores = _numbers("--cores", args.cores, least=0)
    if away := [core for core in cores if core not in usable]:
        there = ",".join(map(str, usable))
        raise UsageError(f"--cores {args.cores}: core {away[0]} cannot be used here. Choose from {there}.")
    if cores and not protocol.CAN_BIND:
        raise UsageError("--cores: this system cannot bind a process to cores. Leave it out.")
    most = len(cores or usable)
    if not 0 <= args.threads <= most:
        kind = "chosen" if cores else "usable"
        raise UsageError(f"--threads {args.threads} does not fit {most} {kind} cores. Use 1 to {most}.")
    form = protocol.quick if args.quick else protocol.strict if args.strict else protocol.full
    return form(args.threads or most, args.rounds, cores)


def pace(args: Args) -> tuple[Pace, float] | None:
    """Return the control loop's pace and its deadline in milliseconds, or None if no loop was asked for.

    Raises:
        UsageError: On a rate, duration or deadline that is not a positive number.
    """
    if args.rate_hz is None:
        for name, value in (("--seconds", args.seconds), ("--deadline-ms", args.deadline_ms)):
            if value is not None:
                raise UsageError(f"{name} is the control loop's. Give its --rate-hz too.")
        return None
    for name, value in (("--rate-hz", args.rate_hz), ("--seconds", args.seconds), ("--deadline-ms", args.deadline_ms)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} {value:g} is not a positive number.")
    seconds = args.seconds or (10.0 if args.quick else 60.0)
    gaps = QUICK_GAPS if args.quick else GAPS
    return Pace(args.rate_hz, seconds, gaps), args.deadline_ms or 1000 / args.rate_hz


def batches(args: Args) -> tuple[int, ...]:
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
