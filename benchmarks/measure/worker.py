"""The process that times one variant: ``python -m benchmarks.measure.worker ASSIGNMENT``.

``worker_process.py`` starts it.

It loads the variant, acts once, says that it is ready, and then blocks on its standard input until its next
request. Requests and replies are one line of JSON each. What libraries print goes to standard error.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from benchmarks.measure.messages import Assignment, Pace, Reply, Request, Ticks, Turn
from benchmarks.measure.pacing import keep_pace
from export import targets
from export.bundle.manifest import NOT_RUN
from export.bundle.reader import Bundle
from export.libraries import causes
from export.targets import Variant
from xfer.files import from_json
from xfer.runner import Arrays, Runner

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2): which signal a process gets when its parent ends."""


def end_with_parent() -> None:
    """Let the system end this process when its parent dies.

    Between its turns it is stopped (``worker_process.py``), and would never see that its input was closed.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def bind(cores: tuple[int, ...]) -> None:
    """Bind this process to logical cores; none leave it where it is."""
    if cores:
        os.sched_setaffinity(0, cores)


def peak_memory_bytes() -> int | None:
    """Return this process's largest resident memory, or None where the system does not say.

    Not ``getrusage``: Linux hands a parent's peak on to the program that a fork of it executes.
    """
    status = Path("/proc/self/status")
    found = (
        re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE) if status.exists() else None
    )
    return int(found[1]) * 1024 if found else None


def bound_cores() -> tuple[int, ...]:
    """Return the logical cores that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


Steps = Iterator[tuple[np.ndarray, Arrays, Arrays]]
"""For each step: bool [B], in which rows an episode begins, what those start from, and the observations."""


def _recorded(bundle: Bundle, batch: int) -> Steps:
    """Rotate through the golden trajectories for ever, ``batch`` consecutive observations at a time."""
    golden = bundle.golden()
    # Stacked once and before the first call: copying frames is not the policy's work.
    endless = itertools.cycle(range(len(golden)))
    parts = [np.array([next(endless) for _ in range(batch)]) for _ in range(math.ceil(len(golden) / batch))]
    # Of a batch of 1 without a batch dimension, as an environment gives them.
    steps = [
        (
            golden.resets[rows],
            golden.starting(rows),
            {name: array[rows[0] if batch == 1 else rows] for name, array in golden.observations.items()},
        )
        for rows in parts
    ]
    while True:
        yield from steps


def _zeros(bundle: Bundle, batch: int) -> Steps:
    blank = {tensor.name: tensor.zeros(batch) for tensor in bundle.spec.observations}
    while True:
        yield np.zeros(batch, bool), {}, blank


def step(runner: Runner, steps: Steps, clock: Callable[[], int] = time.perf_counter_ns) -> int:
    """Infer from the next observations, and return how long that took, in nanoseconds of the clock.

    Of a policy that plans ahead that is a whole chunk each time: what the ticks between two inferences take is nothing
    beside it, and would only hide it.
    """
    begins, states, observations = next(steps)
    if begins.any():
        runner.reset(begins, states)
    start = clock()
    runner.infer(observations)
    return clock() - start


def paced(runner: Runner, steps: Steps, pace: Pace) -> Ticks:
    """Act at a fixed rate, as a robot does: a policy that plans ahead infers only where nothing is left to act."""
    inferred: list[bool] = []
    whole = runner.spec.action.execute > 1  # golden's stretches are shorter than episodes, and end its plans too early

    def act() -> None:
        begins, states, observations = next(steps)
        if begins.any() and not whole:
            runner.reset(begins, states)
        runner.act(observations)
        inferred.append(runner.inferred)

    ticks = keep_pace(act, pace)
    end = len(inferred) - sum(map(len, ticks.after_idle.values()))
    return replace(ticks, inferred=tuple(inferred[end - len(ticks.latencies) : end]))


def take_turn(call: Callable[[], int], turn: Turn) -> tuple[float, ...]:
    """Call back to back, and return how long each timed call took, in seconds.

    Args:
        call: Does the work once, and returns how long it took, in nanoseconds.
        turn: How often and how long.
    """
    untimed = spent = 0
    lead_in, enough = int(turn.lead_in_seconds * 1e9), int(turn.seconds * 1e9)
    while untimed < turn.lead_in or spent < lead_in:
        spent += call()
        untimed += 1
    samples: list[int] = []
    spent = 0
    while len(samples) < turn.calls or spent < enough:
        samples.append(call())
        spent += samples[-1]
    return tuple(sample / 1e9 for sample in samples)


def serve(assignment: Assignment, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the other side closes ``requests``."""
    bind(assignment.cores)
    bundle = Bundle(assignment.bundle)
    batch = assignment.batch
    # Spinning threads are the faster setting, and what a robot's own process would use.
    with bundle.runner(assignment.variant, batch=batch, threads=assignment.threads, spin=True) as runner:
        blank = _zeros(bundle, batch)
        step(runner, blank)
        libraries = targets.load(Variant.parse(assignment.variant).target).libraries()
        send(replies, Reply(peak_memory_bytes=peak_memory_bytes(), cores=bound_cores(), libraries=libraries))
        recorded = _recorded(bundle, batch)
        for line in requests:
            request = from_json(line, Request)
            seconds: tuple[float, ...] = ()
            ticks = None
            if request.turn is not None:
                shown = recorded if request.turn.recorded else blank
                seconds = take_turn(lambda shown=shown: step(runner, shown), request.turn)  # type: ignore[misc]
            if request.pace is not None:
                ticks = paced(runner, recorded, request.pace)
            send(replies, Reply("", seconds, ticks, peak_memory_bytes(), bound_cores()))


def send(replies: BinaryIO, reply: Reply) -> None:
    """Write a reply as one line."""
    replies.write(msgspec.json.encode(reply) + b"\n")
    replies.flush()


def main(serve: Callable[[Assignment, BinaryIO, BinaryIO], None] = serve) -> int:
    """Run the assignment that is the first argument; the exit status is 1 if it failed."""
    end_with_parent()
    # Replies keep the pipe for themselves; whatever a library prints must not get between them.
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)
        try:
            serve(from_json(sys.argv[1].encode(), Assignment), sys.stdin.buffer, replies)
        except Exception as error:  # whatever a library raises: the row must say why
            status, reason = causes.failure(error)
            send(replies, Reply(error=f"{NOT_RUN}: {reason}" if status == "built" else reason))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
