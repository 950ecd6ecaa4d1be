"""The tables that terminal, Markdown and HTML show: their columns and cells; each cell is written once, here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.report.rows import Row

if TYPE_CHECKING:
    from benchmarks.measure.batch_sweep import BatchPoint
    from benchmarks.measure.conditions import Condition
    from benchmarks.report.figures import IdleFigures, InterferenceFigures, LoopFigures
    from benchmarks.stats.bootstrap import Interval, RewardSummary


NOTHING = "n/a"
EAGER = "eager-fp32"
"""The usual reference."""


def short(reference: str) -> str:
    """Return what sentences call the reference.

    Example:
        >>> short("eager-fp32"), short("onnx-fp32")
        ('eager', 'onnx-fp32')
    """
    return "eager" if reference == EAGER else reference


def is_reference(name: str, reference: str) -> bool:
    """Whether a row is the reference, wherever it runs, or the whole backbone's.

    Example:
        >>> is_reference("eager-fp32@channels_last", "eager-fp32"), is_reference("onnx-fp32 (C++)", "onnx-fp32")
        (True, False)
    """
    return name == reference or name.startswith((f"{reference}@", f"{reference} (whole "))


def columns(reference: str) -> list[str]:
    """Return the headings of the table of variants."""
    return [
        "Variant",
        "Status",
        "Size",
        "max |Δ score|",
        "Agreement, regret",
        "Reward Δ [95 % bound]",
        "p50",
        "p99",
        f"Speed-up against {short(reference)}, same device",
    ]


def cells(row: Row) -> list[str]:
    """Return a row's cells, in the order of ``columns``; what is unknown is ``n/a``."""
    return [
        row.variant,
        row.status,
        size(row.size_bytes),
        _maybe(row.max_abs_diff, "{:.2g}"),
        agreement(row),
        reward(row),
        milliseconds(row.p50_ms),
        milliseconds(row.p99_ms),
        speedup(row),
    ]


def marks(row: Row) -> list[str]:
    """Return the words that qualify a row's figures; that a whole run was quick is said elsewhere, once."""
    found = ["unstable"] if row.stable is False else []
    return [*found, "disturbed"] if row.disturbed_rounds else found


def reasons(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return each reason with the variants that it holds for; one that several share is there once."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            names.setdefault(row.reason, []).append(row.variant)
    return [(", ".join(those), reason) for reason, those in names.items()]


def size(count: int) -> str:
    """Return a size in MB (10^6 bytes)."""
    return f"{count / 1e6:.1f} MB" if count else NOTHING


def milliseconds(value: float | None) -> str:
    """Return a time with three significant digits."""
    if value is None:
        return NOTHING
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms"


def share(value: float) -> str:
    """Return a share in per cent.

    Example:
        >>> share(0.48), share(0.0012)
        ('48 %', '0.12 %')
    """
    return f"{100 * value:.2g} %" if value < 0.995 else "100 %"


def agreement(row: Row) -> str:
    """Return the rate of equal actions, and the regret of those that differ."""
    if row.agreement is None:
        return _maybe(row.regret, "{:.2g}")
    return f"{row.agreement:.1%}".replace("%", " %") + ("" if row.regret is None else f", {row.regret:.2g}")


def reward(row: Row) -> str:
    """Return the change in return with its bounds, in the task's units."""
    if row.reward_delta is None:
        return NOTHING
    interval = row.reward_interval
    bounds = f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else ""
    return f"{row.reward_delta:+.2f}{bounds}"


def speedup(row: Row) -> str:
    """Return the speed-up with the smallest and largest of all rounds."""
    if row.speedup is None:
        return NOTHING
    spread = f" [{row.speedup_spread[0]:.2f}, {row.speedup_spread[1]:.2f}]" if row.speedup_spread else ""
    return f"{row.speedup:.2f}x{spread}{' on the GPU' if _on_gpu(row) else ''}"


def _on_gpu(row: Row) -> bool:
    return (row.baseline or "").partition("@")[2].startswith("cuda")


def _maybe(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def sentence(row: Row) -> str:
    """Say what the table has no column for; the row was measured."""
    upper = {"p50": row.p50_upper_ms, "p99": row.p99_upper_ms, "p99.9": row.p999_upper_ms}
    bounds = [f"{name} at most {milliseconds(value)}" for name, value in upper.items() if value is not None]
    parts = [
        f"{row.samples:,} calls",
        f"p99.9 {milliseconds(row.p999_ms)}" if row.p999_ms is not None else "",
        f"slowest {milliseconds(row.max_ms)}",
        f"with 99 % confidence {', '.join(bounds)}" if bounds else "",
        _starts(row),
        _startup(row),
        f"{size(row.peak_memory_bytes)} peak memory" if row.peak_memory_bytes is not None else "",
        f"{size(row.gpu_memory_bytes)} of the GPU's memory" if row.gpu_memory_bytes is not None else "",
        f"{row.energy_mj:.3g} mJ an action at {row.power_w:.3g} W" if row.energy_mj is not None else "",
    ]
    return "; ".join(filter(None, parts))


def _starts(row: Row) -> str:
    if not row.starts_ms:
        return ""
    spread = f"{milliseconds(min(row.starts_ms))} to {milliseconds(max(row.starts_ms))}"
    return f"{len(row.starts_ms)} starts of its process with medians of {spread}"


def _startup(row: Row) -> str:
    if row.cold_start_s is None:
        return ""
    low, high = row.cold_start_spread_s or (row.cold_start_s, row.cold_start_s)
    spread = f" ({low:.2f} to {high:.2f})" if low < high else ""
    return f"{row.cold_start_s:.2f} s{spread} from process start to first action"


def loops(figures: Sequence[LoopFigures]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the control loops, with a column for each length of idle gap."""
    gaps = list(dict.fromkeys(gap for loop in figures for gap in loop.after_idle))
    columns = [
        "Variant",
        "Deadlines missed",
        "At most (95 %)",
        "Verdict",
        "p50",
        "p99",
        "Worst",
        "Jitter",
        "Cores busy between ticks",
    ]
    columns += [f"After {gap} s idle" for gap in gaps]
    rows = []
    for loop in figures:
        missed = f"{loop.missed:,} of {loop.ticks:,}" if loop.ticks else NOTHING
        times = [milliseconds(value) for value in (loop.p50_ms, loop.p99_ms, loop.worst_ms, loop.jitter_ms)]
        idle = [loop.after_idle.get(gap) for gap in gaps]
        rate = [share(loop.miss_rate_upper), loop.verdict] if loop.ticks and not loop.error else [NOTHING, NOTHING]
        rows.append([loop.name, missed, *rate, *times, _maybe(loop.idle_cores, "{:.2f}"), *map(_after_idle, idle)])
    return columns, rows


def _after_idle(figures: IdleFigures | None) -> str:
    return f"{milliseconds(figures.median_ms)} [max {milliseconds(figures.worst_ms)}]" if figures else NOTHING


def sweep(points: Sequence[BatchPoint]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the batch sweep: throughput and the median time of a step, by batch."""
    batches = sorted({point.batch for point in points})
    names = dict.fromkeys(point.name for point in points)
    at = {(point.name, point.batch): point for point in points}
    rows = [[name, *(_batch(at.get((name, batch))) for batch in batches)] for name in names]
    return ["Variant", *(f"Batch {batch}" for batch in batches)], rows


def _batch(point: BatchPoint | None) -> str:
    return f"{point.frames_per_second:,.0f} a second [{milliseconds(point.p50_ms)}]" if point else NOTHING


def divergence(row: Row, reference: str) -> str:
    """Say where a variant first chose another action than the reference; the row has such a place."""
    where, name = row.divergence, short(reference)
    assert where is not None
    return (
        f"{row.variant} first chose another action at step {where.step:,} of the episode with seed {where.seed}:"
        f" {name} {action(where.reference_action)}, {row.variant} {action(where.variant_action)}; by {name}'s scores"
        f" that is worse by {where.margin:.2g}."
    )


def action(values: Sequence[float]) -> str:
    """Return an action as its number, or its elements.

    Example:
        >>> action((1.0,)), action((0.25, -1.0))
        ('1', '(0.25, -1)')
    """
    text = ", ".join(f"{value:g}" for value in values)
    return text if len(values) == 1 else f"({text})"


def returns(summaries: Mapping[str, RewardSummary]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of mean and interquartile mean of the returns."""
    rows = [[name, f"{s.episodes:,}", _interval(s.mean), _interval(s.iqm)] for name, s in summaries.items()]
    return ["Variant", "Episodes", "Mean [95 %]", "Interquartile mean [95 %]"], rows


def _interval(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def disturbances(figures: Sequence[InterferenceFigures]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of what disturbed each variant; an empty column is left out."""
    columns = ["Variant", "Rounds disturbed", "Waited for a core at most", "Preempted", "Throttled at most"]
    columns += ["Other processes at most", "Hypervisor at most", "Kernel slowed", "Clock", "GPU clock"]
    rows = [
        [
            one.name,
            f"{one.disturbed} of {one.rounds}",
            NOTHING if one.waited is None else share(one.waited),
            _maybe(one.preempted, "{:,} times"),
            share(one.throttled) if one.throttled else NOTHING,
            share(one.others),
            share(one.steal),
            f"{one.slowed} rounds" if one.slowed else NOTHING,
            _clock(one.frequency_mhz),
            _clock(one.gpu_clock_mhz),
        ]
        for one in figures
    ]
    filled = [index for index in range(len(columns)) if any(row[index] != NOTHING for row in rows)]
    return [columns[index] for index in filled], [[row[index] for index in filled] for row in rows]


def conditions(found: Sequence[Condition]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of what about the machine moves latencies."""
    rows = [[one.name, one.state, one.found, one.mend or NOTHING] for one in found]
    return ["Condition", "State", "Found", "What mends it"], rows


def _clock(span: tuple[float, float] | None) -> str:
    if span is None:
        return NOTHING
    low, high = (f"{value:,.0f}" for value in span)
    return f"{low} MHz" if low == high else f"{low} to {high} MHz"
