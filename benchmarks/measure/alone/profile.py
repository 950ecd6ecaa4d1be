"""Where the time of one variant goes, layer by layer, from its library's own profiler.

The variant is loaded in a process of its own with the profiler on: ``profile_worker.py``. A profiler takes time
itself, so how long a call takes as a whole is told by a bench, not from here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from benchmarks.measure.alone.peak import Peak
from benchmarks.measure.messages import Turn
from benchmarks.measure.protocol import Candidate, Protocol
from benchmarks.measure.worker_process import WorkerError, WorkerProcess
from export import targets
from export.libraries.layers import Layer
from export.targets import Variant

CALLS = 50
WORKER = (sys.executable, "-P", "-m", "benchmarks.measure.alone.profile_worker")


@dataclass(frozen=True)
class Profile:
    """Where the time of one variant's calls goes.

    Attributes:
        variant: TARGET-PRECISION or TARGET-PRECISION@PLACE.
        profiler: What told it.
        calls: How many calls were profiled.
        call_s: Median duration of a call with the profiler on, in seconds.
        layers: In the order of execution.
        error: Why there are no layers, or empty.
    """

    variant: str
    profiler: str = ""
    calls: int = 0
    call_s: float = 0.0
    layers: tuple[Layer, ...] = ()
    error: str = ""

    @property
    def outside_s(self) -> float:
        """What of a call no layer accounts for, in seconds: xfer's Runner, the library's own calls, the profiler."""
        return max(0.0, self.call_s - sum(layer.seconds for layer in self.layers))

    def share_of_peak(self, layer: Layer, peaks: tuple[Peak, ...]) -> float | None:
        """Return which share of this machine's peak a layer reaches, None where its rate or the peak is not known.

        More than 1 is Winograd's trick, which saves multiplications.
        """
        precision = layer.precision or Variant.parse(self.variant).precision
        peak = next((one.macs_per_second for one in peaks if one.precision == precision), None)
        if not (layer.macs and layer.seconds and peak) or Variant.parse(self.variant).place == "cuda":
            return None
        return layer.macs / layer.seconds / peak


def profile(candidate: Candidate, protocol: Protocol, calls: int = CALLS) -> Profile:
    """Profile a variant; where that cannot be done, the result says why in one line.

    Args:
        candidate: The variant.
        protocol: Threads, cores and warm-up.
        calls: How many calls are profiled.
    """
    name = candidate.variant
    target = targets.load(Variant.parse(name).target)
    profiler: str | None = getattr(target, "PROFILER", None)
    if profiler is None:
        return Profile(name, error=f"{Variant.parse(name).target} tells no time per layer")
    try:
        with WorkerProcess(candidate.assignment(protocol), WORKER) as worker:
            reply = worker.turn(Turn(calls, 0.0, lead_in=protocol.warmup_calls))
    except WorkerError as error:
        return Profile(name, profiler, error=str(error))
    return Profile(name, profiler, len(reply.seconds), float(np.median(reply.seconds)), reply.layers)
