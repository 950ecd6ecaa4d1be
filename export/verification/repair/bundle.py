"""What `xfer export --repair` does once everything is exported: int8 variants that are rejected are repaired."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from export import targets
from export.bundle import records
from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.bundle.verdicts import Verification
from export.targets import ExportRequest, Variant
from export.verification.availability import no_environment
from export.verification.non_inferiority import MARGIN
from export.verification.parity import first_gates
from export.verification.repair.search import Repair, repair
from xfer import tasks
from xfer.runner import Runner
from xfer.trajectories import MEMORY, Trajectories, load_trajectories

REPAIR_SEED = 5_000_000
"""Seeds from here on give the observations that a repair is chosen by; clear of all others in ``xfer.evaluate``."""

STRETCH = 250
"""Longest part of an episode among them, in steps."""


@dataclass(frozen=True)
class Repaired:
    """What became of one int8 variant.

    Attributes:
        build: Its entry in the manifest, afterwards.
        before: The verdict on it before.
        after: The verdict on it now; the same where nothing was repaired.
        repair: What the search found, or None if none was needed.
        impossible: Why it cannot be repaired here, or empty; then there are no verdicts.
    """

    build: Build
    before: Verification | None = None
    after: Verification | None = None
    repair: Repair | None = None
    impossible: str = ""


def repair_bundle(
    path: Path,
    request: ExportRequest,
    variants: Sequence[Variant],
    held_out: Trajectories,
    rebuild: Callable[[Variant, tuple[str, ...]], object],
    on_step: Callable[[str], None] = lambda text: None,
    on_repair: Callable[[Repaired], None] = lambda repaired: None,
    memory: int = MEMORY,
) -> list[Repaired]:
    """Verify a bundle's int8 variants (numbers and actions), and repair those that are rejected.

    A variant that has a verdict in this machine's records is not verified again. One that looks worse on few pairs of
    episodes is not repaired: nothing is proven yet. If no set of layers is enough, the bundle stays as it was.

    Args:
        path: The bundle.
        request: What its variants were made from.
        variants: Those to look at; other precisions than int8 are passed over.
        held_out: Observations to judge on, of episodes kept out of training and calibration.
        rebuild: Builds a variant into the bundle anew, with these layers in float.
        on_step: Called with the name of each step.
        on_repair: Called for each int8 variant.
        memory: Bytes that recorded observations to choose layers by may take in memory.

    Returns:
        One entry for each int8 variant that was built.
    """
    from export.importers import _acting

    @cache
    def judged() -> Trajectories:
        return held_out.replay(Runner(_acting.session(request.policy), request.spec))

    @cache
    def chosen_by() -> Trajectories:
        if no_environment(request.spec) is not None:
            return judged()
        from xfer.evaluate import record_to  # which needs gymnasium

        on_step("recording episodes to choose layers by")
        task = tasks.load_recorded(request.spec.task)
        actor = Runner(_acting.session(request.policy), request.spec)
        with tempfile.TemporaryDirectory(dir=path, prefix=".building-") as folder:
            file = Path(folder) / "repair.safetensors.gz"
            record_to(file, task, actor, REPAIR_SEED, len(held_out), STRETCH)
            return load_trajectories(file, memory).replay(actor)  # it stays open as long as it is read

    def verify(name: str) -> Verification:
        on_step(f"verifying {name}: numbers and actions")
        bundle = Bundle(path)
        verification = first_gates(bundle, [name], judged(), lambda _: None)[name]
        records.save(bundle, name, verification=verification)
        return verification

    results = []
    for variant in variants:
        name, bundle = str(variant), Bundle(path)
        build = bundle.builds[name]
        if variant.precision != "int8" or build.status != "built":
            continue
        if (reason := not_repairable(variant)) is not None:
            results.append(Repaired(build, impossible=reason))
        else:
            record = records.load(bundle).get(name)
            before = after = (record and record.verification) or verify(name)
            found = None
            if is_proven(before, bundle):
                regret_below = (before.regret or 0.0) / 2 if before.rung == "reward" else float("inf")

                def on_layer(text: str, done: int, total: int, name: str = name) -> None:
                    on_step(f"repairing {name}: {text} ({done} of {total})")

                found = repair(bundle, request, variant, chosen_by(), judged(), regret_below, on_layer)
                if found.drift is not None:
                    rebuild(variant, tuple(found.drift))
                    after = verify(name)
            results.append(Repaired(Bundle(path).builds[name], before, after, found))
        on_repair(results[-1])
    return results


def is_proven(verdict: Verification, bundle: Bundle) -> bool:
    """Return whether a variant is rejected by evidence: version 0.2.0 also rejected those that looked worse."""
    if verdict.status != "rejected" or verdict.rung != "reward" or verdict.reward_interval is None:
        return verdict.status == "rejected"
    assert bundle.spec.reward is not None
    return -verdict.reward_interval[1] > MARGIN * bundle.spec.reward.span


def not_repairable(variant: Variant) -> str | None:
    """Return why a variant's layers cannot be chosen here, or None."""
    module = targets.load(variant.target)
    if not hasattr(module, "write_graph"):
        can = [f"{name}-int8" for name in targets.names() if hasattr(targets.load(name), "write_graph")]
        return f"--repair knows {' and '.join(can)}"
    return module.runnable("")
