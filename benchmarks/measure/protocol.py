"""How much is measured and of what, and the raw samples that come out: plain values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.measure.interference import Interference
from benchmarks.measure.messages import Assignment, Turn
from export.libraries.cores import by_preference
from export.libraries.cores import usable_cores as usable_cores
from export.libraries.energy import Energy
from export.targets import Variant

MIN_ROUNDS = 5
"""With fewer there is no spread to tell."""

LEAD_IN_S = 0.015
"""A processor's clock needs 10 ms and more to rise again after a pause."""

MIN_TURNS, MIN_TURNS_STRICT = 500, 5000
"""So many turns give a bound above p99, and above p99.9; 483 and 4,846 are the least."""


@dataclass(frozen=True)
class Protocol:
    """How much is measured, and how.

    Attributes:
        threads: Threads inside an operation.
        rounds: How many rounds there are, over all starts.
        passes: How often all variants take their turn in a round.
        calls: Fewest timed calls of a variant, over all rounds.
        seconds: Shortest timed time of a variant, over all rounds.
        quick: Whether this is the short form; its figures are marked.
        warmup_calls: Fewest calls between a start and its first round.
        warmup_seconds: Shortest time between a start and its first round.
        warmup_limit_seconds: When warm-up ends even if the windows' medians have not settled.
        lead_in_calls: Fewest untimed calls at the beginning of a turn: the first action after an idle gap is another
            question than back-to-back latency.
        pause_seconds: Pause between two turns; 0 where the other processes are stopped meanwhile.
        strict: Whether this is the long form, which gives p99.9.
        cores: Logical cores that the variants are bound to; empty takes the best ones, one a thread: see
            ``export/libraries/cores.py``.
        starts: How often the process of each variant is started afresh, with its share of the rounds.
        lead_in_seconds: Shortest time in those untimed calls.
        seed: Of the order in which variants take their turns, another one in each pass.
        spin: Whether idle threads spin between calls; as wherever a bundle is opened, they do not unless asked to.
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
    pause_seconds: float = 0.0
    strict: bool = False
    cores: tuple[int, ...] = ()
    starts: int = 1
    lead_in_seconds: float = 0.0
    seed: int = 0
    spin: bool = False

    @property
    def turn(self) -> Turn:
        """One variant's share of a pass."""
        turns = self.rounds * self.passes
        calls, seconds = math.ceil(self.calls / turns), self.seconds / turns
        return Turn(calls, seconds, self.lead_in_calls, lead_in_seconds=self.lead_in_seconds)

    def rounds_of(self, start: int) -> range:
        """Return which rounds belong to a start, counted from 0; starts differ by one round at most."""
        return range(self.rounds * start // self.starts, self.rounds * (start + 1) // self.starts)

    @property
    def bound(self) -> tuple[int, ...]:
        """Logical cores that the variants are bound to: as many as threads, so that a single one does not wander."""
        return self.cores or tuple(sorted(by_preference()[: self.threads]))


def full(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return the usual protocol: eight starts, at least 500 turns with 1,024 calls and 10 s a variant."""
    return _form(threads, rounds or 40, cores, starts=8, turns=MIN_TURNS, calls=1024, seconds=10.0)


def quick(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return its short form: two starts, at least 256 calls and 2 s a variant, marked."""
    form = _form(threads, rounds or 20, cores, starts=2, turns=40, calls=256, seconds=2.0)
    return replace(form, quick=True)


def strict(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return its long form: at least 600 s a variant, and enough turns for p99.9 and a bound above it."""
    form = _form(threads, rounds or 240, cores, starts=16, turns=MIN_TURNS_STRICT, calls=6700, seconds=600.0)
    return replace(form, strict=True)


def _form(
    threads: int, rounds: int, cores: tuple[int, ...], *, starts: int, turns: int, calls: int, seconds: float
) -> Protocol:
    return Protocol(
        threads,
        rounds,
        math.ceil(turns / rounds),
        calls,
        seconds,
        warmup_calls=25,
        warmup_seconds=0.3,
        warmup_limit_seconds=1.0,
        lead_in_calls=2,
        cores=cores,
        starts=min(starts, rounds),
        lead_in_seconds=LEAD_IN_S,
    )


@dataclass(frozen=True)
class Candidate:
    """What is measured.

    Attributes:
        name: Name of its row.
        bundle: Folder of the bundle.
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE in that bundle.
        baseline: Name of the row that its speed-up is taken against; empty for none.
        batch: Observations in one step.
        worker: Command of the worker that runs it, as ``WorkerProcess`` takes it; empty for Python's own.
    """

    name: str
    bundle: Path
    variant: str
    baseline: str = ""
    batch: int = 1
    worker: tuple[str, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU; the reference kernel, which is no variant, does not."""
        if not self.variant:
            return False
        variant = Variant.parse(self.variant)
        return variant.place in ("cuda", "cudagraphs", "tensorrt") or variant.target.startswith("tensorrt")

    def assignment(self, protocol: Protocol) -> Assignment:
        """Return what its worker is to run."""
        folder = str(self.bundle.resolve())
        return Assignment(folder, self.variant, protocol.threads, protocol.bound, self.batch, protocol.spin)


@dataclass(frozen=True)
class Measurement:
    """What one candidate gave. Nothing is clipped or averaged here.

    Attributes:
        name: Name of its row.
        variant: What ran.
        rounds: Raw samples of each round, in seconds, in order.
        threads: Threads inside an operation.
        cores: Logical cores that its process was bound to.
        libraries: Versions of what ran it.
        warmup_calls: Calls before the first round, of all starts together.
        warmup_settled: Whether the medians of the warm-up's windows settled in every start.
        cold_start_s: From process start to first action, in seconds: the median of all starts.
        peak_memory_bytes: Largest resident memory of the first start, which had seen nothing but zeros until then.
        error: Why the measurement is missing or incomplete, or empty.
        batch: Observations in one step.
        disturbances: What else went on, one a round.
        turns: How many calls each turn had, in order, a tuple a round; empty in version 0.2.0.
        starts: How many rounds each start of its process gave; empty in version 0.2.0, which had one start.
        cold_starts_s: From process start to first action, of each start.
        gpu_memory_bytes: GPU memory of the first start after its first actions; None where none is used or told.
        energy: What processor and GPU used during its turns, or None where nothing counts it.
        spin: Whether idle threads spun between calls; in version 0.2.0 they always did.
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
    disturbances: tuple[Interference, ...] = ()
    turns: tuple[tuple[int, ...], ...] = ()
    starts: tuple[int, ...] = ()
    cold_starts_s: tuple[float, ...] = ()
    gpu_memory_bytes: int | None = None
    energy: Energy | None = None
    spin: bool = True

    def by_turn(self) -> list[tuple[float, ...]]:
        """Return the samples of each turn; where turns were not kept apart, a round is one."""
        if not self.turns:
            return list(self.rounds)
        parts = []
        for samples, counts in zip(self.rounds, self.turns, strict=True):
            ends = list(itertools.accumulate(counts))
            parts += [samples[end - count : end] for count, end in zip(counts, ends, strict=True)]
        return parts

    def disturbed_rounds(self, slowed: Sequence[bool] = ()) -> int:
        """Count the rounds in which something else was at work.

        Args:
            slowed: Of the rounds, whether the reference kernel was slowed, where it took its turns in them.
        """
        own = {index for index, one in enumerate(self.disturbances) if one.disturbed}
        return len(own | {index for index, slow in enumerate(slowed[: len(self.disturbances)]) if slow})

    def by_start(self) -> list[Sequence[tuple[float, ...]]]:
        """Return the rounds of each start; where starts were not counted, there was one."""
        ends = list(itertools.accumulate(self.starts or (len(self.rounds),)))
        return [self.rounds[begin:end] for begin, end in itertools.pairwise([0, *ends]) if end > begin]

    def start_medians(self) -> tuple[float, ...]:
        """Return the median of all calls of each start, in seconds; empty where starts were not counted."""
        if not self.starts:
            return ()
        return tuple(float(np.median([call for one in rounds for call in one])) for rounds in self.by_start())
