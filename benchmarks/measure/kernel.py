"""The reference kernel: a small fixed piece of work, half memory and half arithmetic, whatever is installed.

A bench gives it a process and turns as if it were a variant. Its times say what the machine itself could do in a round:
a round in which it was slowed had a neighbor that no counter shows, and ``xfer compare`` holds two benches against it
where the baseline's own libraries changed. It uses Python's standard library alone, so a new NumPy or PyTorch leaves it
as it was.

    candidate()       what to hand to ``latency.measure``, which returns its measurement under ``NAME``
    slowed_rounds()   in which rounds of that measurement it was slowed
    Kernel()()        do the work once, and return how long it took, in nanoseconds
"""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmarks.measure import worker
from benchmarks.measure.messages import Assignment, Reply, Request
from benchmarks.measure.protocol import Candidate, Measurement
from benchmarks.stats.slowed import slowed
from xfer.files import from_json

NAME = "reference kernel"

VERSION = "1"
"""Of the work; it changes whenever the work does, since other work is no common measure."""

COPIED_BYTES = 16 * 2**20
"""Copied once: more than the processor's inner caches hold."""

HASHED_BYTES, HASHES = 16 * 2**10, 64
"""Hashed again and again: it stays in the innermost cache, so this is arithmetic alone."""


def candidate() -> Candidate:
    """Return what is measured; it has neither a bundle nor a baseline."""
    return Candidate(NAME, Path(), "", worker=(sys.executable, "-P", "-m", "benchmarks.measure.kernel"))


def slowed_rounds(measurement: Measurement | None) -> tuple[bool, ...]:
    """Return of each round whether the kernel was slowed in it; see ``benchmarks/stats/slowed.py``.

    Args:
        measurement: Of the kernel; None, or one without turns, as of version 0.2.0, says nothing.
    """
    if measurement is None or not measurement.turns:
        return ()
    medians = iter(float(np.median(calls)) for calls in measurement.by_turn())
    rounds = [[next(medians) for _ in turns] for turns in measurement.turns]
    ends = np.cumsum(measurement.starts)
    return slowed([rounds[end - count : end] for count, end in zip(measurement.starts, ends, strict=True)])


class Kernel:
    """The work, with the memory that it needs."""

    def __init__(self) -> None:
        self._source = bytearray(range(256)) * (COPIED_BYTES // 256)
        self._target = memoryview(bytearray(COPIED_BYTES))
        self._block = bytes(self._source[:HASHED_BYTES])

    def __call__(self) -> int:
        """Do the work once, and return how long it took, in nanoseconds."""
        start = time.perf_counter_ns()
        self._target[:] = self._source
        for _ in range(HASHES):
            hashlib.blake2b(self._block).digest()
        return time.perf_counter_ns() - start


def serve(assignment: Assignment, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests for turns until the other side closes ``requests``."""
    worker.bind(assignment.cores)
    kernel = Kernel()
    kernel()
    libraries = {"kernel": VERSION, "python": platform.python_version()}
    cores = worker.bound_cores()
    worker.send(replies, Reply(peak_memory_bytes=worker.peak_memory_bytes(), cores=cores, libraries=libraries))
    for line in requests:
        turn = from_json(line, Request).turn
        seconds = worker.take_turn(kernel, turn) if turn is not None else ()
        worker.send(replies, Reply("", seconds, None, worker.peak_memory_bytes(), cores))


def main() -> int:
    """Run the assignment that is the first argument."""
    return worker.main(serve)


if __name__ == "__main__":
    worker.leave(main())
