"""How small a load on a variant's core is marked: a real process takes a known share of it while a bench measures."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from benchmarks.bench import check_libraries
from benchmarks.claims import Options, Outcome
from benchmarks.measure import kernel, latency
from benchmarks.measure.protocol import Candidate, Protocol, full, quick, usable_cores
from export.bundle.reader import Bundle
from export.libraries import linux
from xfer.errors import UnavailableError, UsageError

ROUNDS = 20
MARKED, FALSE_ALARMS = 0.95, 0.05
"""Of rounds under a load that has to be found, and of rounds without one."""


@dataclass(frozen=True)
class Load:
    """A process that takes part of a core.

    Attributes:
        busy_s: Processor time that it takes in each period.
        period_s: How long a period is.
        marks: What the claim says that it marks: ``all`` rounds (nearly), ``some``, ``none`` (nearly), or ``any``
            number, since it is near the limit.
    """

    busy_s: float
    period_s: float
    marks: Literal["all", "some", "none", "any"] = "all"

    @property
    def share(self) -> float:
        """Share of the core."""
        return self.busy_s / self.period_s

    def __str__(self) -> str:
        return f"{self.share:.0%}: {1000 * self.busy_s:g} of {1000 * self.period_s:g} ms" if self.busy_s else "none"

    @contextmanager
    def on(self, core: int) -> Iterator[int]:
        """Run it on a core meanwhile; gives the number of its process."""
        words = [sys.executable, "-c", BUSY, str(core), str(self.busy_s), str(self.period_s)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()  # it has begun
                yield process.pid
            finally:
                process.kill()


BUSY = """
import os, sys, time
core, busy, period = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
os.sched_setaffinity(0, {core})
print(flush=True)
due = time.monotonic()
while True:
    until = time.thread_time() + busy
    while time.thread_time() < until:
        pass
    due += period
    time.sleep(max(0.0, due - time.monotonic()))
"""

LOADS = (
    Load(0.0, 0.02, marks="none"),
    Load(0.0006, 0.02, marks="none"),
    Load(0.0012, 0.02, marks="any"),
    Load(0.0016, 0.02),
    Load(0.002, 0.02),
    Load(0.01, 0.1, marks="some"),
)
"""The last comes in bursts, of which a short round may miss one: a bench has its mark, but not every round."""

CLAIM = (
    f"A load of 8 % or more on a core that a variant is bound to, one or two threads, marks at least {MARKED:.0%} of"
    f" the rounds of a bench; none, or one of 3 %, marks at most {FALSE_ALARMS:.0%} of them on a quiet machine; and"
    " every bench under a load of 10 % is marked, in bursts too."
)


def reproduce(options: Options) -> Outcome:
    """Measure the reference kernel, or with two threads a variant of the bundle, under each load.

    Raises:
        UnavailableError: If a process fails.
        UsageError: If a number of rounds does not fit.
    """
    linux.require("xfer reproduce interference")
    check_libraries()
    rounds = options.runs or ROUNDS
    if rounds < 2:
        raise UsageError(f"--runs {rounds} are too few rounds: use 2 or more.")
    forms = {"default, one thread": full(1), "quick, one thread": quick(1)}
    notes, candidates = [], dict.fromkeys(forms, kernel.candidate())
    if options.bundle is None or len(usable_cores()) < 2:
        notes.append("Two threads were left out: that takes a bundle and two cores.")
    else:
        name = "default, two threads"
        forms[name], candidates[name] = full(2), _candidate(Bundle(options.bundle))
    rows = [_row(name, fewer(form, rounds), candidates[name], load) for name, form in forms.items() for load in LOADS]
    if not all(row["holds"] for row in rows if row["load"] == str(LOADS[0])):
        notes.append("Something else ran at the same time: repeat this on a quiet machine before relying on it.")
    return Outcome(tuple(rows), tuple(notes))


def _candidate(bundle: Bundle) -> Candidate:
    variant = "onnx-fp32" if "onnx-fp32" in bundle.builds else bundle.reference
    return Candidate(variant, bundle.path, variant)


def fewer(form: Protocol, rounds: int) -> Protocol:
    """Return a bench of one start with other rounds in number, but equal ones."""
    share = rounds / form.rounds
    return replace(form, rounds=rounds, calls=math.ceil(form.calls * share), seconds=form.seconds * share, starts=1)


def _row(name: str, protocol: Protocol, candidate: Candidate, load: Load) -> dict[str, Any]:
    """Measure one form of a bench under one load."""
    with load.on(protocol.bound[-1]) if load.busy_s else nullcontext():
        found = latency.measure([candidate], protocol)[candidate.name]
    if found.error:
        raise UnavailableError(f"{candidate.name}: {found.error}")
    marked = sum(one.disturbed for one in found.disturbances)
    waits = [one.waited for one in found.disturbances if one.waited is not None]
    share = marked / len(found.disturbances)
    holds = {"all": share >= MARKED, "some": marked > 0, "none": share <= FALSE_ALARMS, "any": True}
    return {
        "bench": name,
        "load": str(load),
        "rounds": len(found.disturbances),
        "marked": marked,
        "waited": f"{np.mean(waits):.1%}, {min(waits):.1%} to {max(waits):.1%}" if waits else "n/a",
        "holds": holds[load.marks],
    }
