"""How builds and verdicts are printed."""

from __future__ import annotations

from typing import Any

from export.bundle.manifest import Build
from export.bundle.records import Verification


def describe_verdict(name: str, v: Verification) -> str:
    """Return one line about a verdict, in rich's markup."""
    color = {"verified": "green", "provisional": "yellow", "rejected": "red", "failed": "red"}.get(v.status, "dim")
    figures = []
    if v.max_abs_diff is not None:
        figures.append(f"max |Δ score| {v.max_abs_diff:.2g}")
    if v.agreement is not None:
        figures.append(f"agreement {v.agreement:.1%}, regret {v.regret:.2g}")
    if v.reward_interval is not None:
        low, high = v.reward_interval
        figures.append(f"reward Δ {v.reward_delta:+.2f} [{low:+.1f}, {high:+.1f}] over {v.pairs} pairs")
    text = "; ".join(filter(None, (", ".join(figures), v.reason)))
    return f"  [{color}]{v.status:<11}[/] {name}: {text}"


def as_row(build: Build, cached: bool) -> dict[str, Any]:
    """Return one build as ``--json`` prints it."""
    return {
        "variant": build.variant,
        "status": build.status,
        "reason": build.reason,
        "seconds": round(build.seconds, 2),
        "size_bytes": build.size_bytes,
        "cached": cached,
    }


def describe_build(build: Build, cached: bool) -> str:
    """Return one line about a build, in rich's markup."""
    if build.status != "built":
        return f"  [yellow]{build.status:<11}[/] {build.variant}: {build.reason}"
    size = f"{build.size_bytes / 1e6:.1f} MB"
    how = "unchanged" if cached else f"{build.seconds:.1f} s"
    return f"  [green]built[/]       {build.variant}: {size}, {how}" + (f" ({build.notes})" if build.notes else "")
