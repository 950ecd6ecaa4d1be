"""The nine columns that terminal, Markdown and HTML show of a row; each cell is written once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from export.bundle import Provenance
from export.records import Machine

Row = Mapping[str, Any]

COLUMNS = (
    "Variant",
    "Status",
    "Size",
    "max |Δ score|",
    "Agreement, regret",
    "Reward Δ [95 % bound]",
    "p50",
    "p99",
    "Speed-up against eager",
)
NOTHING = "n/a"


def cells(row: Row) -> list[str]:
    """Return a row's cells, in the order of ``COLUMNS``; what is unknown is ``n/a``."""
    return [
        row["variant"],
        row["status"],
        size(row["size_bytes"]),
        _maybe(row["max_abs_diff"], "{:.2g}"),
        agreement(row),
        reward(row),
        milliseconds(row["p50_ms"]),
        milliseconds(row["p99_ms"]),
        speedup(row),
    ]


def marks(row: Row) -> list[str]:
    """Return the words that qualify a row's figures; that a whole run was quick is said once, above them."""
    return ["unstable"] if row["stable"] is False else []


def size(count: int) -> str:
    """Return a size in MB (10^6 bytes)."""
    return f"{count / 1e6:.1f} MB" if count else NOTHING


def milliseconds(value: float | None) -> str:
    """Return a time with three significant digits."""
    if value is None:
        return NOTHING
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms"


def agreement(row: Row) -> str:
    """Return the rate of equal actions, and the regret of those that differ."""
    if row["agreement"] is None:
        return _maybe(row["regret"], "{:.2g}")
    return f"{row['agreement']:.1%}".replace("%", " %") + ("" if row["regret"] is None else f", {row['regret']:.2g}")


def reward(row: Row) -> str:
    """Return the change in return with its bounds, in the task's units."""
    if row["reward_delta"] is None:
        return NOTHING
    interval = row["reward_interval"]
    bounds = f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else ""
    return f"{row['reward_delta']:+.2f}{bounds}"


def speedup(row: Row) -> str:
    """Return the speed-up with the smallest and largest of all rounds."""
    if row["speedup"] is None:
        return NOTHING
    low, high = row["speedup_spread"]
    return f"{row['speedup']:.2f}x [{low:.2f}, {high:.2f}]"


def _maybe(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def machine_line(machine: Machine, threads: int, cores: Sequence[int]) -> str:
    """Say on what, and with what of it, was measured."""
    gpu = f", {machine.gpu}" if machine.gpu else ", no GPU"
    bound = f" on cores {', '.join(map(str, cores))}" if cores else ""
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.instruction_set}{gpu},"
        f" {machine.memory_bytes / 2**30:.0f} GiB, {machine.system}, Python {machine.python};"
        f" {threads} {'thread' if threads == 1 else 'threads'}{bound}"
    )


def graph_line(provenance: Provenance) -> str:
    """Say which graph was timed.

    Example:
        >>> graph_line(Provenance("", "", "resnet18", "layer2", "flatten", 683072, 250_000_000, ""))
        'resnet18 up to layer2, head flatten: 683,072 executed parameters, 250.0 million MACs a step'
    """
    return (
        f"{provenance.backbone} up to {provenance.tap}, head {provenance.head}:"
        f" {provenance.parameters:,} executed parameters, {provenance.macs / 1e6:.1f} million MACs a step"
    )
