"""What a report says of one variant alone: where its time goes, and how its soak went. Tables and sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.measure.alone.peak import Peak
from benchmarks.measure.alone.profile import Profile
from benchmarks.measure.alone.soak import Growth, Soak
from benchmarks.report.rows import Row
from benchmarks.report.table import NOTHING, milliseconds, share, size
from export.libraries.layers import REST

SHOWN = 20
"""Layers that are shown one by one, the longest; the others are one line."""

Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Part:
    """A line of a profile: a layer, or what is left.

    Attributes:
        name: What it is called.
        kind: What it does.
        seconds: How long it takes.
        of_call: That, as a share of the whole call.
        macs_per_second: Its multiply-accumulates in a second, or None.
        of_peak: That, as a share of what this machine reaches, or None.
        layer: Whether it is one of the library's layers.
    """

    name: str
    kind: str
    seconds: float
    of_call: float
    macs_per_second: float | None = None
    of_peak: float | None = None
    layer: bool = True


def parts(profile: Profile, peaks: Sequence[Peak]) -> list[Part]:
    """Return the longest layers in the order of execution, the others together, and what no layer accounts for."""
    whole = max(profile.call_s, sum(layer.seconds for layer in profile.layers)) or 1.0
    order = sorted(range(len(profile.layers)), key=lambda index: -profile.layers[index].seconds)
    shown = set(order if len(order) <= SHOWN + 1 else order[:SHOWN])
    found = []
    for index, layer in enumerate(profile.layers):
        if index in shown:
            rate = layer.macs / layer.seconds if layer.macs and layer.seconds else None
            of_peak = profile.share_of_peak(layer, tuple(peaks))
            found.append(Part(layer.name, layer.kind, layer.seconds, layer.seconds / whole, rate, of_peak))
    rest = [layer.seconds for index, layer in enumerate(profile.layers) if index not in shown]
    if rest:
        found.append(Part(f"{len(rest)} shorter ones", "", sum(rest), sum(rest) / whole, layer=False))
    outside = profile.outside_s
    return [*found, Part("outside of layers", "", outside, outside / whole, layer=False)]


def layers(profile: Profile, peaks: Sequence[Peak]) -> Table:
    """Return the columns and rows of a profile."""
    columns = ["Layer", "Operation", "Time", "Share", "GMAC/s", "Of the peak"]
    rows = [
        [
            part.name,
            part.kind,
            milliseconds(1000 * part.seconds),
            share(part.of_call),
            NOTHING if part.macs_per_second is None else f"{part.macs_per_second / 1e9:.1f}",
            NOTHING if part.of_peak is None else share_above(part.of_peak),
        ]
        for part in parts(profile, peaks)
    ]
    return columns, rows


def share_above(value: float) -> str:
    """Return a share in per cent that may be above 100.

    Example:
        >>> share_above(1.3), share_above(0.48)
        ('130 %', '48 %')
    """
    return f"{100 * value:.0f} %" if value >= 0.1 else share(value)


def of_profile(profile: Profile, rows: Iterable[Row]) -> list[str]:
    """Say what a profile is of, and how far it can be relied on.

    Args:
        profile: The profile.
        rows: The report's, which may have the variant's median without a profiler.
    """
    if profile.error:
        return [f"{profile.variant} has no time per layer: {profile.error}"]
    whole = milliseconds(1000 * profile.call_s)
    p50_ms = next((row.p50_ms for row in rows if row.variant == profile.variant), None)
    usual = f", without it {milliseconds(p50_ms)}" if p50_ms is not None else ""
    found = [f"Medians of {profile.calls:,} calls by {profile.profiler}. With it on, a call takes {whole}{usual}."]
    untold = profile.outside_s + sum(layer.seconds for layer in profile.layers if layer.kind == REST)
    if untold > 0.5 * profile.call_s:
        found.append(
            "It tells less than half of the time layer by layer: the rest is machine code that it cannot see into."
        )
    return found


def of_soak(soak: Soak) -> list[str]:
    """Say how a soak went: drift, throttling, memory."""
    minutes = f"{soak.seconds / 60:.3g} of {soak.minutes:g} minutes"
    calls = sum(one.calls for one in soak.intervals)
    found = [f"{soak.name} ran for {minutes}: {calls:,} calls."]
    if soak.ended:
        found.append(f"It ended early: {soak.ended.rstrip('.')}.")
    if (drift := soak.drift) is not None:
        bounds = f"{_percent(drift.value)} [{_percent(drift.low)}, {_percent(drift.high)}]"
        found.append(
            f"{_moved(drift, 'Its calls became slower', 'Its calls became faster', 'No drift is shown')}: {bounds}."
        )
    if (memory := soak.memory_growth) is not None:
        bounds = f"{_megabytes(memory.value)} [{_megabytes(memory.low)}, {_megabytes(memory.high)}]"
        per_call = memory.value / calls
        grew = f"Its memory grew, by {per_call:,.0f} bytes a call"
        found.append(f"{_moved(memory, grew, 'Its memory shrank', 'No growth of its memory is shown')}: {bounds}.")
    elif soak.intervals:
        found.append("It was too short to tell drift and growth of memory.")
    return [*found, *_slowed(soak)]


def _slowed(soak: Soak) -> list[str]:
    """Say what kept the machine from its full speed."""
    throttled, slowdowns = sum(one.throttled_s for one in soak.intervals), sum(one.slowdowns for one in soak.intervals)
    found = []
    if throttled:
        found.append(f"The container's quota of processor time was used up for {throttled:.3g} s.")
    if slowdowns:
        found.append(f"The processor slowed down for heat {slowdowns:,} times.")
    for what, unit, values in (
        ("Clock", "MHz", [one.clock_mhz for one in soak.intervals]),
        ("GPU clock", "MHz", [one.gpu_clock_mhz for one in soak.intervals]),
        ("Temperature", "°C", [one.temperature for one in soak.intervals]),
    ):
        known = [value for value in values if value is not None]
        if known:
            found.append(f"{what}: {min(known):,.0f} to {max(known):,.0f} {unit}.")
    if disturbed := sum(one.disturbed for one in soak.intervals):
        found.append(f"Something else took time in {disturbed:,} of {len(soak.intervals):,} intervals.")
    return found


def _moved(growth: Growth, up: str, down: str, none: str) -> str:
    return none if not growth.shown else up if growth.value > 0 else down


def _percent(value: float) -> str:
    return f"{100 * value:+.2g} %"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:+.2f} MB"


def stretches(soak: Soak) -> Table:
    """Return the columns and rows of a soak: ten stretches of its intervals."""
    columns = ["Until", "Calls", "p50", "Slowest", "Memory", "Clock", "Temperature"]
    count = min(10, len(soak.intervals))
    bounds = [len(soak.intervals) * index // count for index in range(count + 1)] if count else []
    rows = []
    for begin, end in itertools.pairwise(bounds):
        those = soak.intervals[begin:end]
        last = those[-1]
        rows.append(
            [
                f"{last.end_s:,.0f} s",
                f"{sum(one.calls for one in those):,}",
                milliseconds(sorted(one.p50_ms for one in those)[len(those) // 2]),
                milliseconds(max(one.max_ms for one in those)),
                size(last.memory_bytes),
                NOTHING if last.clock_mhz is None else f"{last.clock_mhz:,.0f} MHz",
                NOTHING if last.temperature is None else f"{last.temperature:.0f} °C",
            ]
        )
    return columns, rows


def limits(peaks: Sequence[Peak], macs: int) -> str:
    """Say how fast a graph can be at all on this machine: its arithmetic limit; empty where no peak is known."""
    if not peaks or not macs:
        return ""
    times = [
        f"{milliseconds(1e3 * macs / one.macs_per_second)} in {one.precision} ({one.macs_per_second / 1e9:.0f} GMAC/s)"
        for one in peaks
    ]
    threads = peaks[0].threads
    on = f"{threads} {'thread' if threads == 1 else 'threads'} of this processor"
    return (
        f"{macs / 1e6:,.1f} million MACs take at least {' and '.join(times)}, by what products of matrices reach in"
        f" {peaks[0].library} on {on}; only Winograd's convolutions, which save multiplications, may be faster"
    )
