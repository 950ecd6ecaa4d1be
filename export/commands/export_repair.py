"""What `xfer export --repair` does once everything is exported; ``repair.py`` is the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import targets
from export.bundle import records
from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.commands.console import describe_verdict
from export.targets import ExportRequest, Variant
from export.verification.parity import first_gates
from export.verification.repair import Repair, repair
from xfer.runner import Runner
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from rich.console import Console


def repair_bundle(
    path: Path,
    request: ExportRequest,
    variants: Sequence[Variant],
    held_out: Trajectories,
    rebuild: Callable[[Variant, tuple[str, ...]], object],
    console: Console,
) -> list[dict[str, Any]]:
    """Verify a bundle's int8 variants up to the actions gate, and repair those that are rejected.

    What this machine's records say already is not asked again. If no set of layers is enough, the bundle stays as it
    was.

    Args:
        path: The bundle.
        request: What its variants were made from.
        variants: Those to look at; other precisions than int8 are passed over.
        held_out: Observations to judge on, of episodes kept out of training and calibration.
        rebuild: Builds a variant into the bundle anew, with these layers in float.
        console: Where to say what was found.

    Returns:
        What ``--json`` prints of each int8 variant: its verdict, and which layers stay in float; where it was
        repaired now, also the regret and the milliseconds of a call before and after.
    """
    from xfer.models.torch_session import TorchSession

    @cache
    def judged() -> Trajectories:
        return held_out.replay(Runner(TorchSession(request.policy.deploy(), request.spec), request.spec))

    def verify(name: str) -> Verification:
        bundle = Bundle(path)
        verification = first_gates(bundle, [name], judged(), lambda _: None)[name]
        records.save(bundle, name, verification=verification)
        return verification

    rows = []
    for variant in variants:
        name, bundle = str(variant), Bundle(path)
        if variant.precision != "int8" or bundle.builds[name].status != "built":
            continue
        if (reason := not_repairable(variant)) is not None:
            console.print(f"  [dim]not repaired[/] {name}: {reason}")
            continue
        record = records.load(bundle).get(name)
        verification = (record and record.verification) or verify(name)
        found = None
        if verification.status == "rejected":
            console.print(describe_verdict(name, verification))
            regret_below = (verification.regret or 0.0) / 2 if verification.rung == "reward" else float("inf")
            with _progress(name, console) as on_step:
                found = repair(bundle, request, variant, judged(), regret_below, on_step)
            if found.drift is None:
                console.print(f"  {name} stays as it was: having all {found.layers} layers in float is not enough.")
            else:
                rebuild(variant, tuple(found.drift))
                verification = verify(name)
                console.print(report(name, found, verification))
        console.print(describe_verdict(name, verification))
        rows.append(_row(Bundle(path).builds[name], verification, found))
    return rows


def not_repairable(variant: Variant) -> str | None:
    """Return why a variant's layers cannot be chosen here, or None."""
    module = targets.load(variant.target)
    if not hasattr(module, "write_graph"):
        can = [f"{name}-int8" for name in targets.names() if hasattr(targets.load(name), "write_graph")]
        return f"--repair knows {' and '.join(can)}"
    return module.runnable("")


def report(name: str, found: Repair, after: Verification) -> str:
    """Return what stays in float and what it cost, in rich's markup."""
    assert found.drift is not None
    head = f"  {name}: {len(found.drift)} of {found.layers} layers stay in float, and none of them can go back to int8"
    lines = [f"    {layer}: alone in int8, scores drift by {drift:.2%}" for layer, drift in found.drift.items()]
    cost = (
        f"    mean regret {found.before.regret:.2g} -> {after.regret:.2g};"
        f" about {found.before_ms:.2f} ms -> {found.after_ms:.2f} ms a call on one thread"
    )
    return "\n".join([head, *lines, cost])


def _row(build: Build, verification: Verification, found: Repair | None) -> dict[str, Any]:
    """Return what ``--json`` prints of one variant."""
    row: dict[str, Any] = {
        "variant": build.variant,
        "status": verification.status,
        "reason": verification.reason,
        "regret": verification.regret,
        "float_layers": list(build.options.get("float_layers", ())),
    }
    if found is not None:
        row |= {"layers": found.layers, "drift": found.drift, "regret_before": found.before.regret}
        row |= {"before_ms": found.before_ms, "after_ms": found.after_ms}
    return row


@contextmanager
def _progress(name: str, console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar while a variant is repaired."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(TextColumn(f"repairing {name}"), *columns, console=console, transient=True) as progress:
        bar = progress.add_task("")
        yield lambda text, done, total: progress.update(bar, description=text, completed=done, total=total)
