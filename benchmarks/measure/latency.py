"""The measuring protocol: interleaved rounds of variants that each live in a process of their own.

    warm up A, warm up B, warm up C,   A B C A B C   A B C A B C   A B C A B C,   fresh start of A, of B, of C

A round is a few passes over all variants: a machine that is shared changes its speed within a tenth of a second, so
what is compared within a round has to lie as close together as that.

What is timed is ``Runner.act``: host observation in, host action out, batch 1, rotating through the bundle's
golden observations. All samples are kept. Outside its turn a process is blocked on its pipe, and during a turn this
one is: what else takes the machine's time is read before and after it (``interference.py``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from benchmarks.measure.interference import Interference, Meter
from benchmarks.measure.messages import Turn
from benchmarks.measure.protocol import Candidate, Measurement, Protocol, usable_cores
from benchmarks.measure.worker_process import WorkerError, WorkerProcess
from benchmarks.stats.percentiles import settled


def steps_per_candidate(protocol: Protocol) -> int:
    """How often ``measure`` calls ``on_step`` for one candidate: warm-up, rounds, fresh start."""
    return protocol.rounds + 2


def measure(
    candidates: Sequence[Candidate],
    protocol: Protocol,
    on_step: Callable[[str, str], None] = lambda name, stage: None,
    on_round: Callable[[int, dict[str, Measurement]], None] = lambda done, measurements: None,
    *,
    cold_start: bool = True,
) -> dict[str, Measurement]:
    """Measure all candidates in interleaved rounds.

    Args:
        candidates: In the order of their turns.
        protocol: How much, with how many threads.
        on_step: Called with a row's name and what comes next: "warm-up", "round 2", "cold start".
        on_round: Called after each round, in the pause, with the number of rounds done and what they gave.
        cold_start: Whether to start each once more, for the time that takes and the memory it needs.

    Returns:
        One measurement for each candidate, by name. A candidate whose process fails keeps what it gave
        until then, and ``error`` says why it ended; the others go on.
    """
    runs = [_Run(candidate, protocol) for candidate in candidates]

    def so_far() -> dict[str, Measurement]:
        return {run.candidate.name: run.measurement() for run in runs}

    with ExitStack() as stack:
        for run in runs:
            on_step(run.candidate.name, "warm-up")
            run.attempt(lambda run=run: run.start(stack))  # type: ignore[misc]
        for index in range(protocol.rounds):
            for run in runs:
                on_step(run.candidate.name, f"round {index + 1}")
                run.attempt(run.begin_round)
            for _ in range(protocol.passes):
                for run in runs:
                    run.attempt(run.take_turn)
            for run in runs:
                run.attempt(run.end_round)
            on_round(index + 1, so_far())
    # Now every file is in the page cache, for the last candidate as for the first.
    for run in runs if cold_start else ():
        on_step(run.candidate.name, "cold start")
        run.attempt(run.start_fresh)
    return so_far()


class _Run:
    """One candidate while it is measured."""

    def __init__(self, candidate: Candidate, protocol: Protocol) -> None:
        self.candidate, self.protocol = candidate, protocol
        self.assignment = candidate.assignment(protocol)
        self.cores = self.assignment.cores
        self.rounds: list[tuple[float, ...]] = []
        self.disturbances: list[Interference] = []
        self.warmup: list[tuple[float, ...]] = []
        self.warmup_settled = False
        self.libraries: dict[str, str] = {}
        self.cold_start_s: float | None = None
        self.peak_memory_bytes: int | None = None
        self.error = ""

    def attempt(self, part: Callable[[], None]) -> None:
        """Do a part unless an earlier one failed; a failure ends this candidate, not the others."""
        if self.error:
            return
        try:
            part()
        except WorkerError as error:
            self.error = str(error)

    def start(self, stack: ExitStack) -> None:
        """Start the process and let it call until its times settle."""
        protocol = self.protocol
        self.worker = stack.enter_context(WorkerProcess(self.assignment, self.candidate.worker))
        self.cores, self.libraries = self.worker.ready.cores, self.worker.ready.libraries
        self.meter = Meter(self.worker.pid, usable_cores(), self.cores, gpu=self.candidate.on_gpu)
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
        """Run this candidate's share of a pass."""
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
        with WorkerProcess(self.assignment, self.candidate.worker) as worker:
            self.cold_start_s = worker.cold_start_s
            reply = worker.turn(Turn(self.protocol.warmup_calls, 0, recorded=False))
            self.peak_memory_bytes = reply.peak_memory_bytes

    def measurement(self) -> Measurement:
        return Measurement(
            self.candidate.name,
            self.candidate.variant,
            tuple(self.rounds),
            self.protocol.threads,
            self.cores,
            self.libraries,
            sum(len(window) for window in self.warmup),
            self.warmup_settled,
            self.cold_start_s,
            self.peak_memory_bytes,
            self.error,
            self.candidate.batch,
            tuple(self.disturbances),
            spin=self.protocol.spin,
        )
