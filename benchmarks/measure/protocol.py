"""How much is measured and of what, and the raw samples that come out: plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure.interference import Interference
from benchmarks.measure.messages import Assignment, Turn
from export.libraries.cores import by_preference
from export.libraries.cores import usable_cores as usable_cores
from export.targets import Variant

MIN_ROUNDS = 5
"""With fewer there is no spread to tell."""


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
        cores: Logical cores that the variants are bound to; empty takes the best ones, one a thread: see
            ``export/libraries/cores.py``.
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
    pause_seconds: float = 0.05
    strict: bool = False
    cores: tuple[int, ...] = ()
    spin: bool = False

    @property
    def turn(self) -> Turn:
        """One variant's share of a pass."""
        turns = self.rounds * self.passes
        return Turn(math.ceil(self.calls / turns), self.seconds / turns, self.lead_in_calls)

    @property
    def bound(self) -> tuple[int, ...]:
        """Logical cores that the variants are bound to: as many as threads, so that a single one does not wander."""
        return self.cores or tuple(sorted(by_preference()[: self.threads]))


def full(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return the usual protocol: at least 1,024 calls and 10 s a variant."""
    return Protocol(threads, rounds or 40, cores=cores)


def quick(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return its short form: at least 256 calls and 2 s a variant, marked."""
    return Protocol(threads, rounds or 20, 2, 256, 2.0, quick=True, warmup_limit_seconds=4.0, cores=cores)


def strict(threads: int, rounds: int = 0, cores: tuple[int, ...] = ()) -> Protocol:
    """Return its long form: at least 600 s a variant, and enough calls for p99.9 and a bound above it."""
    return Protocol(threads, rounds or 240, calls=6700, seconds=600.0, strict=True, cores=cores)


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
        """Whether it runs on a GPU."""
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
        warmup_calls: Calls before the first round.
        warmup_settled: Whether the warm-up's window means settled.
        cold_start_s: From process start to first action, on a fresh process, in seconds.
        peak_memory_bytes: Largest resident memory of that fresh process.
        error: Why the measurement is missing or incomplete, or empty.
        batch: Observations in one step.
        disturbances: What else went on, one a round.
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
    spin: bool = True
