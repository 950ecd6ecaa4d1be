"""Which of two findings on the same files counts: of verdicts the stronger, of figures those of the longer bench."""

from __future__ import annotations

from dataclasses import replace

from export.bundle.record import GATES, PROTOCOLS, Latency, LoopRecord, Record, Verification


def stronger(before: Verification | None, new: Verification) -> Verification:
    """Return which of two verdicts on the same files is kept, with the actions gate that saw more.

    A rejection replaces whatever was there, and gives way only to a verdict that looked at least as closely. So does a
    failure, which may have been of the moment: it gives way to any. Otherwise a verified one is stronger than one that
    is not, then the higher gate, then more pairs; of equals, the new one.
    """
    if before is None or new.status in ("rejected", "failed") or before.status == "failed" or _run_anew(before, new):
        return new
    if before.status == "rejected":
        return new if _overturns(new, before) else before
    kept, other = (new, before) if _strength(new) >= _strength(before) else (before, new)
    if other.observations <= kept.observations:
        return kept
    figures = ("max_abs_diff", "tolerance", "agreement", "regret", "observations", "worst")
    return replace(kept, **{name: getattr(other, name) for name in figures})


def _run_anew(before: Verification, new: Verification) -> bool:
    """Whether old pairs do not count: episodes are truncated elsewhere now, or the same seeds gave other returns.

    An environment was then found not to replay.
    """
    if not before.rung == new.rung == "reward":
        return False
    both = zip(before.returns, new.returns, strict=False)
    other = any(old[0] == now[0] and old != now for old, now in both)
    return other or before.max_episode_steps != new.max_episode_steps


def _strength(verdict: Verification) -> tuple[bool, int, int]:
    proves_nothing = verdict.rung == "recordings" and not verdict.agrees_on_recordings
    return verdict.status == "verified", GATES.index("actions" if proves_nothing else verdict.rung), verdict.pairs


def _overturns(new: Verification, rejection: Verification) -> bool:
    if new.rung == rejection.rung == "reward":
        return new.pairs >= rejection.pairs
    if rejection.rung == "actions" and new.observations < rejection.observations:
        return False
    return GATES.index(new.rung) >= GATES.index(rejection.rung)


def with_figures(record: Record, latency: Latency, loop: LoopRecord | None) -> Record:
    """Return a record with what a bench measured, beside what benches under other conditions did.

    A short run takes nothing from a long one: each protocol keeps its last figures.
    """
    return with_all_figures(record, replace(record, latencies=(latency,), loop=None, loops=(loop,) if loop else ()))


def with_all_figures(record: Record, newer: Record) -> Record:
    """Return a record with the figures of a newer one beside those under other conditions."""
    added, loops = newer.all_latencies, newer.all_loops
    if not added:
        return record
    last, how, paced = added[-1], set(map(_how, added)), set(map(_how_paced, loops))
    latencies = (*(one for one in record.all_latencies if _how(one) not in how), *added)
    loops = (*(one for one in record.all_loops if _how_paced(one) not in paced), *loops)
    alike = tuple(one for one in latencies if (one.threads, one.spin) == (last.threads, last.spin))
    loop = next((one for one in reversed(loops) if (one.threads, one.spin) == (last.threads, last.spin)), None)
    return replace(record, latency=strongest(alike), loop=loop, latencies=latencies, loops=loops)


def without_figures(record: Record) -> Record:
    """Return a record of the verdict alone."""
    return replace(record, latency=None, loop=None, latencies=(), loops=())


def strongest(latencies: tuple[Latency, ...]) -> Latency | None:
    """Return the figures of the strongest protocol, or None if there are none; it has one of each."""
    return max(latencies, key=lambda one: PROTOCOLS.index(one.protocol), default=None)


def _how(one: Latency) -> tuple[object, ...]:
    return one.protocol, one.threads, one.spin


def _how_paced(one: LoopRecord) -> tuple[object, ...]:
    return one.rate_hz, one.late, one.quick, one.threads, one.spin
