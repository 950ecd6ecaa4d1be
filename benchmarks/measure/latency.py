"""The measuring protocol: interleaved rounds of variants that each live in a process of their own.

    start A, C, B   C A B B A C   A B C C B A      start B, A, C   B C A C A B   ...
                    (- round --)  (- round --)

A process keeps its place in memory for as long as it lives, and that moves all of its times alike. So each is ended and
started afresh several times, and shares its rounds out over the starts. A round is a few passes over all variants: a
machine that is shared changes its speed within a tenth of a second, so what is compared within a round has to lie as
close together as that. Each pass has an order of its own, drawn from a seed, so that nobody always follows the same.

What is timed is ``Runner.act``: host observation in, host action out, batch 1, rotating through the bundle's
golden observations. All samples are kept. Outside its turn a process is stopped, and during a turn this
one is blocked on a pipe: what else takes the machine's time is read before and after it (``interference.py``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from benchmarks.measure.interference import Interference, Meter
from benchmarks.measure.messages import Turn
from benchmarks.measure.protocol import Candidate, Measurement, Protocol, usable_cores
from benchmarks.measure.worker_process import WorkerError, WorkerProcess
from benchmarks.stats.percentiles import settled
from export.libraries import energy, nvml


def steps_per_candidate(protocol: Protocol) -> int:
    """How often ``measure`` calls ``on_step`` for one candidate: starts and rounds."""
    return protocol.starts + protocol.rounds


def measure(
    candidates: Sequence[Candidate],
    protocol: Protocol,
    on_step: Callable[[str, str], None] = lambda name, stage: None,
    on_round: Callable[[int, dict[str, Measurement]], None] = lambda done, measurements: None,
) -> dict[str, Measurement]:
    """Measure all candidates in interleaved rounds.

    Args:
        candidates: What is measured; ``protocol.seed`` draws the order of their starts and turns.
        protocol: How much, with how many threads.
        on_step: Called with a row's name and what comes next: "start 1", "round 2".
        on_round: Called after each round, in the pause, with the number of rounds done and what they gave.

    Returns:
        One measurement for each candidate, by name, in the order given. A candidate whose process fails keeps what it
        gave until then, and ``error`` says why it ended; the others go on.
    """
    runs = [_Run(candidate, protocol) for candidate in candidates]
    order = random.Random(protocol.seed)

    def shuffled() -> list[_Run]:
        return order.sample(runs, len(runs))

    for start in range(protocol.starts):
        with ExitStack() as stack:
            for run in shuffled():
                on_step(run.candidate.name, f"start {start + 1}")
                run.attempt(lambda run=run: run.start(stack))  # type: ignore[misc]
            for index in protocol.rounds_of(start):
                for run in runs:
                    on_step(run.candidate.name, f"round {index + 1}")
                    run.attempt(run.begin_round)
                for _ in range(protocol.passes):
                    for run in shuffled():
                        run.attempt(run.take_turn)
                for run in runs:
                    run.attempt(run.end_round)
                on_round(index + 1, {run.candidate.name: run.measurement() for run in runs})
    return {run.candidate.name: run.measurement() for run in runs}


class _Run:
    """One candidate while it is measured."""

    def __init__(self, candidate: Candidate, protocol: Protocol) -> None:
        self.candidate, self.protocol = candidate, protocol
        self.assignment = candidate.assignment(protocol)
        self.cores = self.assignment.cores
        self.rounds: list[tuple[float, ...]] = []
        self.turns: list[tuple[int, ...]] = []
        self.starts: list[int] = []
        self.disturbances: list[Interference] = []
        self.warmup_calls = 0
        self.warmup_settled = True
        self.libraries: dict[str, str] = {}
        self.cold_starts_s: list[float] = []
        self.peak_memory_bytes: int | None = None
        self.gpu_memory_bytes: int | None = None
        self.energy = energy.Meter(gpu=candidate.on_gpu)
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
        """Start the process afresh and let it call until its times settle."""
        gpu = nvml.used_bytes(0) if self.candidate.on_gpu else None
        self.worker = stack.enter_context(WorkerProcess(self.assignment, self.candidate.worker))
        self.cores, self.libraries = self.worker.ready.cores, self.worker.ready.libraries
        self.meter = Meter(self.worker.pid, usable_cores(), self.cores, gpu=self.candidate.on_gpu)
        if not self.cold_starts_s:  # now it holds the policy and nothing else, no recorded frames
            alone = self.worker.turn(Turn(self.protocol.warmup_calls, 0, recorded=False))
            self.peak_memory_bytes = alone.peak_memory_bytes
            self.gpu_memory_bytes = _gpu_memory(gpu, nvml.used_bytes(self.worker.pid) if gpu else None)
        self.cold_starts_s.append(self.worker.cold_start_s)
        self._warm_up()
        self.starts.append(0)

    def _warm_up(self) -> None:
        protocol = self.protocol
        window = Turn(math.ceil(protocol.warmup_calls / 5), protocol.warmup_seconds / 5)
        medians: list[float] = []
        spent, done = 0.0, False
        while len(medians) < 5 or not (done or spent >= protocol.warmup_limit_seconds):
            samples = self.worker.turn(window).seconds
            medians.append(float(np.median(samples)))
            self.warmup_calls += len(samples)
            spent += sum(samples)
            done = settled(medians)
        self.warmup_settled &= done

    def begin_round(self) -> None:
        """Begin to collect."""
        self.collected: list[tuple[float, ...]] = []

    def take_turn(self) -> None:
        """Run this candidate's share of a pass."""
        self.meter.begin()
        self.energy.begin()
        self.collected.append(self.worker.turn(self.protocol.turn).seconds)
        self.energy.end()
        self.meter.end()

    def end_round(self) -> None:
        """Keep what the passes gave."""
        self.rounds.append(tuple(sample for turn in self.collected for sample in turn))
        self.turns.append(tuple(map(len, self.collected)))
        self.starts[-1] += 1
        self.disturbances.append(self.meter.disturbance())

    def measurement(self) -> Measurement:
        """Return what it gave so far."""
        return Measurement(
            self.candidate.name,
            self.candidate.variant,
            tuple(self.rounds),
            self.protocol.threads,
            self.cores,
            self.libraries,
            self.warmup_calls,
            self.warmup_settled and bool(self.starts),
            float(np.median(self.cold_starts_s)) if self.cold_starts_s else None,
            self.peak_memory_bytes,
            self.error,
            self.candidate.batch,
            tuple(self.disturbances),
            tuple(self.turns),
            tuple(self.starts),
            tuple(self.cold_starts_s),
            self.gpu_memory_bytes,
            self.energy.energy(),
            spin=self.protocol.spin,
        )


Used = tuple[int | None, int] | None
"""See ``nvml.used_bytes``."""


def _gpu_memory(before: Used, after: Used) -> int | None:
    """Return the GPU memory of a process: what the driver says, else by how much more is used than before it began."""
    if before is None or after is None:
        return None
    return after[0] if after[0] is not None else max(0, after[1] - before[1])
