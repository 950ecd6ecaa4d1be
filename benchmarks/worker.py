"""The process that times one variant: ``python -m benchmarks.worker ASSIGNMENT``, started by ``process.py``.

It loads the variant, acts once, says that it is ready, and then blocks on its standard input until its next
turn. Requests and replies are one line of JSON each. What libraries print goes to standard error.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from export import target
from export.bundle import Bundle
from export.target import Variant
from xfer.errors import XferError
from xfer.files import from_json
from xfer.runner import Arrays, Runner


@dataclass(frozen=True)
class Assignment:
    """What a worker runs.

    Attributes:
        bundle: Folder of the bundle.
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE.
        threads: Threads inside an operation.
        cores: Logical cores that the process is bound to; empty leaves it where it is.
    """

    bundle: str
    variant: str
    threads: int
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One request: call until both floors are reached.

    Attributes:
        calls: Fewest timed calls.
        seconds: Shortest time spent in timed calls.
        lead_in: Calls before the first timed one, which wake threads and caches after the idle time.
        recorded: Whether to rotate through the bundle's golden observations; else zeros are shown.
    """

    calls: int
    seconds: float
    lead_in: int = 0
    recorded: bool = True


@dataclass(frozen=True)
class Reply:
    """One answer: to being started, or to a turn.

    Attributes:
        error: Why there is no answer, or empty.
        seconds: Duration of each timed call, in order.
        peak_memory_bytes: Largest resident memory of this process so far.
        cores: Logical cores that the process may use.
        libraries: Versions of what runs the variant.
    """

    error: str = ""
    seconds: tuple[float, ...] = ()
    peak_memory_bytes: int | None = None
    cores: tuple[int, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)


def peak_memory_bytes() -> int | None:
    """Return this process's largest resident memory, or None where the system does not say.

    Not ``getrusage``: Linux hands a parent's peak on to the program that a fork of it executes.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else None


def _cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def _recorded(bundle: Bundle) -> Iterator[tuple[bool, Arrays]]:
    """Rotate through the golden trajectories for ever."""
    golden = bundle.golden()
    while True:
        yield from golden.steps()


def _zeros(bundle: Bundle) -> Iterator[tuple[bool, Arrays]]:
    blank = {tensor.name: tensor.zeros(1)[0] for tensor in bundle.spec.observations}
    while True:
        yield False, blank


def take_turn(runner: Runner, steps: Iterator[tuple[bool, Arrays]], turn: Turn) -> tuple[float, ...]:
    """Act on the coming observations, and return how long each timed call took, in seconds."""
    samples: list[int] = []
    spent, enough = 0, int(turn.seconds * 1e9)
    lead_in = turn.lead_in
    while len(samples) < turn.calls or spent < enough:
        begins, observations = next(steps)
        if begins:
            runner.reset()
        start = time.perf_counter_ns()
        runner.act(observations)
        elapsed = time.perf_counter_ns() - start
        if lead_in:
            lead_in -= 1
            continue
        samples.append(elapsed)
        spent += elapsed
    return tuple(sample / 1e9 for sample in samples)


def serve(assignment: Assignment, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer turns until the other side closes ``requests``."""
    if assignment.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, assignment.cores)
    bundle = Bundle(assignment.bundle)
    # Spinning threads are the faster setting, and what a robot's own process would use.
    with bundle.runner(assignment.variant, threads=assignment.threads, spin=True) as runner:
        blank = _zeros(bundle)
        take_turn(runner, blank, Turn(calls=1, seconds=0))
        libraries = target.load(Variant.parse(assignment.variant).target).libraries()
        _send(replies, Reply(peak_memory_bytes=peak_memory_bytes(), cores=_cores(), libraries=libraries))
        recorded = _recorded(bundle)
        for line in requests:
            turn = from_json(line, Turn)
            seconds = take_turn(runner, recorded if turn.recorded else blank, turn)
            _send(replies, Reply(seconds=seconds, peak_memory_bytes=peak_memory_bytes(), cores=_cores()))


def _send(replies: BinaryIO, reply: Reply) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")
    replies.flush()


def main() -> int:
    """Run the assignment that is the first argument; the exit status is 1 if it failed."""
    # Replies keep the pipe for themselves; whatever a library prints must not get between them.
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)
        try:
            serve(from_json(sys.argv[1].encode(), Assignment), sys.stdin.buffer, replies)
        except XferError as error:
            _send(replies, Reply(error=str(error)))
            return 1
        except Exception as error:  # a library's own exceptions: the row must say why
            _send(replies, Reply(error=f"{type(error).__name__}: {error}"))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
