"""The batch sweep: what a variant gains in throughput, and costs in latency, when it acts for several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.measure import latency
from benchmarks.measure.protocol import Candidate, Protocol
from export.bundle.reader import Bundle


@dataclass(frozen=True)
class BatchPoint:
    """One variant at one batch.

    Attributes:
        name: Name of its row.
        batch: Observations in one step.
        p50_ms: Median time of a step, in milliseconds.
        frames_per_second: Observations a second at that median.
    """

    name: str
    batch: int
    p50_ms: float
    frames_per_second: float


def short(protocol: Protocol) -> Protocol:
    """Return the protocol of one batch: medians need few calls."""
    return replace(
        protocol,
        rounds=5,
        passes=1,
        starts=1,
        calls=50,
        seconds=1.0,
        warmup_calls=10,
        warmup_seconds=0.2,
        warmup_limit_seconds=2.0,
    )


def run(
    candidates: Sequence[Candidate],
    batches: Sequence[int],
    protocol: Protocol,
    on_step: Callable[[str, str], None] = lambda name, stage: None,
) -> tuple[list[BatchPoint], list[str]]:
    """Measure, batch by batch, all candidates that take it, in interleaved rounds.

    Args:
        candidates: Those to measure; one whose build has a smaller largest batch sits that batch out.
        batches: Observations in one step.
        protocol: Threads and cores, and how much: see ``short``.
        on_step: Called with a row's name and what comes next.

    Returns:
        The points, and a sentence for each that is missing because its process failed.
    """
    points, missing = [], []
    for batch in batches:

        def on_batch_step(name: str, stage: str, batch: int = batch) -> None:
            on_step(name, f"batch {batch}, {stage}")

        able = [replace(candidate, batch=batch) for candidate in candidates if takes(candidate, batch)]
        measured = latency.measure(able, protocol, on_batch_step)
        for name, measurement in measured.items():
            if measurement.error:
                missing.append(f"The batch sweep lacks {name} at batch {batch}: {measurement.error}")
                continue
            p50 = float(np.median([sample for samples in measurement.rounds for sample in samples]))
            points.append(BatchPoint(name, batch, 1000 * p50, batch / p50))
    return points, missing


def takes(candidate: Candidate, batch: int) -> bool:
    """Whether a candidate's build accepts a batch."""
    most = Bundle(candidate.bundle).build(candidate.variant).max_batch
    return most is None or batch <= most


def steps(protocol: Protocol) -> int:
    """How often ``run`` calls ``on_step`` for one candidate at one batch."""
    return latency.steps_per_candidate(protocol)
