"""The measuring protocol: interleaved rounds of variants that each live in a process of their own.

    warm up A, warm up B, warm up C,   A B C A B C   A B C A B C   A B C A B C,   fresh start of A, of B, of C

A round is a few passes over all variants: a machine that is shared changes its speed within a tenth of a second, so
what is compared within a round has to lie as close together as that.

What is timed is ``Runner.act``: host observation in, host action out, batch 1, rotating through the bundle's
golden observations. All samples are kept. Outside its turn a process is blocked on its pipe, and during a turn this
one is: what else takes the machine's time is read before and after it (``disturbance.py``).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.disturbance import Disturbance, Meter
from benchmarks.process import WorkerError, WorkerProcess
from benchmarks.stats.percentiles import settled
from benchmarks.worker import Assignment, Turn
from export.targets import BASELINE, Variant

CAN_BIND = hasattr(os, "sched_setaffinity")
"""Whether a process can be bound to cores here."""


@dataclass(frozen=True)
class Protocol:
    """How much is measured, and how.

    Attributes:
        threads: Threads inside an operation.
        rounds: How many rounds there are.
        passes: How often all variants take their turn in a round.
        calls: Fewest timed calls of a variant, over all rounds.
        seconds: Shortest timed time of a variant, over all rounds.
        quick: Whether this is the short form; its figures are marked.
        warmup_calls: Fewest calls before the first round.
        warmup_seconds: Shortest time before the first round.
        warmup_limit_seconds: When warm-up ends even if the window means have not settled.
        lead_in_calls: Untimed calls at the beginning of a turn: the first action after an idle gap is another
            question than back-to-back latency.
        pause_seconds: Pause between two turns, in which the threads of the previous process stop spinning; a single
            thread does not, and there is none.
        strict: Whether this is the long form, which gives p99.9.
        cores: Logical cores that the variants are bound to; empty takes the last ones, one a thread.
    """

    threads: int
    rounds: int = 40
    passes: int = 8
    calls: int = 1024
    seconds: float = 10.0
    quick: bool = False
    warmup_calls: int = 50
    warmup_seconds: float = 2.0
    warmup_limit_seconds: float = 10.0
    lead_in_calls: int = 3
    pause_seconds: float = 0.05
    strict: bool = False
    cores: tuple[int, ...] = ()

    @property
    def turn(self) -> Turn:
        """One variant's share of a pass."""
        turns = self.rounds * self.passes
        return Turn(math.ceil(self.calls / turns), self.seconds / turns, self.lead_in_calls)


def full(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return the protocol as the design has it: at least 1,024 calls and 10 s a variant."""
    return Protocol(threads, rounds or 40, cores=cores)


def quick(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return its short form: at least 256 calls and 2 s a variant, marked."""
    return Protocol(threads, rounds or 20, 2, 256, 2.0, quick=True, warmup_limit_seconds=4.0, cores=cores)


def strict(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return its long form: at least 600 s a variant, and enough calls for p99.9 and a bound above it."""
    return Protocol(threads, rounds or 240, calls=6700, seconds=600.0, strict=True, cores=cores)


@dataclass(frozen=True)
class Contestant:
    """What takes part.

    Attributes:
        name: Name of its row.
        bundle: Folder of the bundle.
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE in that bundle.
        baseline: Name of the row that its speed-up is taken against.
        batch: Observations in one step.
        worker: Command of the worker that runs it, as ``WorkerProcess`` takes it; empty for Python's own.
    """

    name: str
    bundle: Path
    variant: str
    baseline: str = BASELINE
    batch: int = 1
    worker: tuple[str, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        variant = Variant.parse(self.variant)
        return variant.place in ("cuda", "tensorrt") or variant.target.startswith("tensorrt")

    def assignment(self, protocol: Protocol) -> Assignment:
        """Return what its worker is told."""
        # Bound to as many cores as it has threads, so that a single thread does not wander.
        cores = protocol.cores or usable_cores()[-protocol.threads :]
        return Assignment(str(self.bundle.resolve()), self.variant, protocol.threads, cores, self.batch)


@dataclass(frozen=True)
class Measurement:
    """What one contestant gave. Nothing is clipped or averaged here.

    Attributes:
        name: Name of its row.
        variant: What ran.
        rounds: Raw samples of each round, in seconds, in order.
        threads: Threads inside an operation.
        cores: Logical cores that its process was bound to.
        libraries: Versions of what ran it.
        warmup_calls: Calls before the first round.
        warmup_settled: Whether the warm-up's window means settled.
        cold_start_s: From process start to first action, on a fresh process, in seconds.
        peak_memory_bytes: Largest resident memory of that fresh process.
        error: Why the measurement is missing or incomplete, or empty.
        batch: Observations in one step.
        disturbances: What else went on, one a round.
    """

    name: str
    variant: str
    rounds: tuple[tuple[float, ...], ...] = ()
    threads: int = 1
    cores: tuple[int, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)
    warmup_calls: int = 0
    warmup_settled: bool = False
    cold_start_s: float | None = None
    peak_memory_bytes: int | None = None
    error: str = ""
    batch: int = 1
    disturbances: tuple[Disturbance, ...] = ()


def usable_cores() -> tuple[int, ...]:
    """Return the logical cores that this process may use."""
    if CAN_BIND:
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def steps_per_contestant(protocol: Protocol) -> int:
    """How often ``measure`` calls ``on_step`` for one contestant: warm-up, rounds, fresh start."""
    return protocol.rounds + 2


def measure(
    contestants: Sequence[Contestant],
    protocol: Protocol,
    on_step: Callable[[str, str], None] = lambda name, stage: None,
    on_round: Callable[[int, dict[str, Measurement]], None] = lambda done, measurements: None,
    *,
    cold_start: bool = True,
) -> dict[str, Measurement]:
    """Measure all contestants in interleaved rounds.

    Args:
        contestants: In the order of their turns.
        protocol: How much, with how many threads.
        on_step: Called with a row's name and what comes next: "warm-up", "round 2", "cold start".
        on_round: Called after each round, in the pause, with the number of rounds done and what they gave.
        cold_start: Whether to start each once more, for the time that takes and the memory it needs.

    Returns:
        One measurement for each contestant, by name. A contestant whose process fails keeps what it gave
        until then, and ``error`` says why it ended; the others go on.
    """
    runs = [_Run(contestant, protocol) for contestant in contestants]

    def so_far() -> dict[str, Measurement]:
        return {run.contestant.name: run.measurement() for run in runs}

    with ExitStack() as stack:
        for run in runs:
            on_step(run.contestant.name, "warm-up")
            run.attempt(lambda run=run: run.start(stack))  # type: ignore[misc]
        for index in range(protocol.rounds):
            for run in runs:
                on_step(run.contestant.name, f"round {index + 1}")
                run.attempt(run.begin_round)
            for _ in range(protocol.passes):
                for run in runs:
                    run.attempt(run.take_turn)
            for run in runs:
                run.attempt(run.end_round)
            on_round(index + 1, so_far())
    # Now every file is in the page cache, for the last contestant as for the first.
    for run in runs if cold_start else ():
        on_step(run.contestant.name, "cold start")
        run.attempt(run.start_fresh)
    return so_far()


class _Run:
    """One contestant while it is measured."""

    def __init__(self, contestant: Contestant, protocol: Protocol) -> None:
        self.contestant, self.protocol = contestant, protocol
        self.assignment = contestant.assignment(protocol)
        self.cores = self.assignment.cores
        self.rounds: list[tuple[float, ...]] = []
        self.disturbances: list[Disturbance] = []
        self.warmup: list[tuple[float, ...]] = []
        self.warmup_settled = False
        self.libraries: dict[str, str] = {}
        self.cold_start_s: float | None = None
        self.peak_memory_bytes: int | None = None
        self.error = ""

    def attempt(self, part: Callable[[], None]) -> None:
        """Do a part unless an earlier one failed; a failure ends this contestant, not the others."""
        if self.error:
            return
        try:
            part()
        except WorkerError as error:
            self.error = str(error)

    def start(self, stack: ExitStack) -> None:
        """Start the process and let it call until its times settle."""
        protocol = self.protocol
        self.worker = stack.enter_context(WorkerProcess(self.assignment, self.contestant.worker))
        self.cores, self.libraries = self.worker.ready.cores, self.worker.ready.libraries
        self.meter = Meter(self.worker.pid, usable_cores(), self.cores, gpu=self.contestant.on_gpu)
        window = Turn(math.ceil(protocol.warmup_calls / 5), protocol.warmup_seconds / 5)
        spent = 0.0
        while True:
            self.warmup.append(self.worker.turn(window).seconds)
            spent += sum(self.warmup[-1])
            self.warmup_settled = settled([float(np.mean(w)) for w in self.warmup])
            enough = len(self.warmup) >= 5 and (self.warmup_settled or spent >= protocol.warmup_limit_seconds)
            if enough:
                break
        self._rest()

    def begin_round(self) -> None:
        """Begin to collect."""
        self.collected: list[float] = []

    def take_turn(self) -> None:
        """Run this contestant's share of a pass."""
        self.meter.begin()
        self.collected += self.worker.turn(self.protocol.turn).seconds
        self.meter.end()
        self._rest()

    def end_round(self) -> None:
        """Keep what the passes gave."""
        self.rounds.append(tuple(self.collected))
        self.disturbances.append(self.meter.disturbance())

    def _rest(self) -> None:
        if self.protocol.threads > 1:
            time.sleep(self.protocol.pause_seconds)

    def start_fresh(self) -> None:
        """Start a second process, which holds the policy and nothing else, for cold start and memory."""
        with WorkerProcess(self.assignment, self.contestant.worker) as worker:
            self.cold_start_s = worker.cold_start_s
            reply = worker.turn(Turn(self.protocol.warmup_calls, 0, recorded=False))
            self.peak_memory_bytes = reply.peak_memory_bytes

    def measurement(self) -> Measurement:
        return Measurement(
            self.contestant.name,
            self.contestant.variant,
            tuple(self.rounds),
            self.protocol.threads,
            self.cores,
            self.libraries,
            sum(len(window) for window in self.warmup),
            self.warmup_settled,
            self.cold_start_s,
            self.peak_memory_bytes,
            self.error,
            self.contestant.batch,
            tuple(self.disturbances),
        )
