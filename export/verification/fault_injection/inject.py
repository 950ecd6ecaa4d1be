"""What `xfer verify --inject-faults` does: damage copies of a bundle, and see which gate catches each fault.

A verifier that rejects nothing looks the same as one that finds nothing wrong. Here it has to reject every fault of
``faults.py``, and must not reject the bundle itself. The bundle is only read: faults are injected into copies, in a
temporary folder, and no record is kept.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from export import targets
from export.bundle.access import copy_tree
from export.bundle.manifest import GOLDEN, HELD_OUT, MANIFEST
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.libraries import pytorch
from export.targets import Variant
from export.verification.availability import no_reference, no_reward_gate
from export.verification.held_out import held_out_observations
from export.verification.verify import check_counts, verify
from xfer.errors import RunError, UnavailableError, UsageError, XferError
from xfer.files import write_atomically
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from export.verification.fault_injection.faults import Fault

MAX_PAIRS = 10
"""Pairs of episodes at most, of the untouched bundle: enough to reject what loses much."""

FAULT_PAIRS = 100
"""Pairs of episodes at most, of a damaged copy: a rejection needs evidence, and few faults come as far as that."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one fault.

    Attributes:
        mistake: Its name.
        what: How it happens, as a sentence.
        caught_by: ``loading``, ``numbers``, ``actions`` or ``reward``; empty if it was let through or not tested.
        detail: What the gate said, or why the fault could not be tested.
        tested: Whether it could be: injected here, and seen by every gate.
        seconds: How long that took.
    """

    mistake: str
    what: str
    caught_by: str
    detail: str
    tested: bool
    seconds: float = 0.0


@dataclass(frozen=True)
class FaultInjection:
    """All findings, and the verdicts on the untouched bundle's variants."""

    findings: tuple[Finding, ...]
    untouched: dict[str, Verification]

    @property
    def let_through(self) -> list[str]:
        """Names of the faults that no gate caught."""
        return [finding.mistake for finding in self.findings if finding.tested and not finding.caught_by]

    @property
    def rejected(self) -> list[str]:
        """Untouched variants that a gate let not pass."""
        verdicts = self.untouched.items()
        return [name for name, v in verdicts if v.status == "rejected" or (v.status == "failed" and v.rung)]

    @property
    def passed(self) -> bool:
        """Whether every fault that could be tested was caught, and nothing else was."""
        return not self.let_through and not self.rejected


def inject_faults(
    bundle: Bundle,
    *,
    pairs: int = MAX_PAIRS,
    workers: int = 0,
    run: Path | None = None,
    held_out: Trajectories | None = None,
    faults: Iterable[Fault] | None = None,
    on_step: Callable[[str], None] = lambda text: None,
    on_finding: Callable[[Finding], None] = lambda finding: None,
) -> FaultInjection:
    """Inject every fault into a copy of the bundle and verify each copy; then verify the bundle itself.

    Args:
        bundle: A bundle whose reference is xfer's own network in PyTorch. It is only read.
        pairs: Pairs of episodes of the untouched bundle; ``MAX_PAIRS`` at most, 0 leaves the reward gate out.
        workers: Processes that run pairs. Default: one for each core.
        run: The run, for its held-out observations. Default: the one that the bundle was made from, if it is here.
        held_out: Held-out observations, where the caller has them already.
        faults: What to inject. Default: all of ``faults.py``.
        on_step: Called with the name of each step.
        on_finding: Called after each fault.

    Raises:
        UnavailableError: Without PyTorch, in which the faults are made.
        UsageError: If the bundle holds another network than xfer's own, or not in PyTorch.
        RunError: Without held-out observations.
        BundleError: If the reference's files are damaged.
    """
    check_counts(pairs, workers)
    if missing := pytorch.available():
        raise UnavailableError(f"Faults are made in PyTorch. {missing}")
    if not bundle.manifest.provenance.backbone or Variant.parse(bundle.reference).target != "eager":
        raise UsageError("Faults are made in xfer's own networks in PyTorch, and this bundle holds another.")
    if held_out is None:
        held_out, why = held_out_observations(bundle, run)
        if held_out is None:
            raise RunError(f"Fault injection needs the held-out observations of the run: {why}.")
    if faults is None:
        from export.verification.fault_injection.faults import FAULTS

        faults = FAULTS
    pairs = min(pairs, MAX_PAIRS)
    if held_out.actions is None:
        if missing := no_reference(bundle):
            raise UnavailableError(f"Fault injection needs the reference: {missing}.")
        on_step("the reference's actions")
        with bundle.runner(bundle.reference) as runner:
            held_out = held_out.replay(runner)

    def on_pairs(done: int, verdicts: object) -> None:
        on_step(f"{done} pairs of episodes")

    verdicts = partial(verify, held_out=held_out, workers=workers, keep=False, on_pairs=on_pairs)
    damaged = partial(verdicts, pairs=FAULT_PAIRS if pairs else 0)
    untested = "--pairs 0" if pairs == 0 else no_reward_gate(bundle)
    findings = []
    with tempfile.TemporaryDirectory(prefix="xfer-faults-") as folder:
        for number, fault in enumerate(faults):
            on_step(fault.name)
            findings.append(_find(bundle, fault, Path(folder) / str(number), damaged, untested))
            on_finding(findings[-1])
    on_step("the untouched bundle")
    return FaultInjection(tuple(findings), verdicts(bundle, pairs=pairs))


Verdicts = Callable[..., dict[str, Verification]]
"""``verify``, with all that it is told besides the bundle and the variants."""


def _find(bundle: Bundle, fault: Fault, path: Path, verdicts: Verdicts, untested: str | None) -> Finding:
    finding = Finding(fault.name, fault.what, "", "", tested=False)
    if (missing := not_injectable(bundle, fault)) is not None:
        return replace(finding, detail=f"not tested: {missing}")
    start = time.perf_counter()
    copy_bundle(bundle, (bundle.reference, *fault.needs), path)
    fault.damage(path)
    gate, said = catch(path, fault.variant or bundle.reference, partial(verdicts, make=fault.runner))
    shutil.rmtree(path)
    finding = replace(finding, caught_by=gate, detail=said, tested=True, seconds=time.perf_counter() - start)
    if gate:
        return finding
    if untested is not None:
        detail = f"not tested: only the reward gate is left, and it was not run ({untested})"
        return replace(finding, tested=False, detail=detail)
    return replace(finding, detail="let through")


def catch(path: Path, variant: str, verdicts: Verdicts) -> tuple[str, str]:
    """Return which gate rejects a variant of a damaged bundle, and what it says.

    Args:
        path: The damaged bundle.
        variant: The variant.
        verdicts: ``verify``, with all that it is told besides.

    Returns:
        ``loading``, ``numbers``, ``actions``, ``reward``, or an empty string if none does.
    """
    try:
        bundle = Bundle(path)
        bundle.check(bundle.build(variant))
        bundle.golden()
    except XferError as error:
        return "loading", str(error).replace(f"{path}/", "")
    found = verdicts(bundle, [variant])[variant]
    gate = found.rung if found.status in ("rejected", "failed") else ""
    return gate, found.reason.removeprefix(f"{gate}: ")


def not_injectable(bundle: Bundle, fault: Fault) -> str | None:
    """None if a fault can be injected into this bundle here, else what is missing."""
    there = {state.name for state in bundle.spec.states}
    there |= {name for name, build in bundle.builds.items() if build.status == "built"}
    there |= _kept_by_runner(bundle.spec)
    for need in fault.needs:
        if need not in there:
            return f"the bundle has no {need}"
    return targets.load(Variant.parse(fault.variant or bundle.reference).target).available()


def _kept_by_runner(spec: PolicySpec) -> set[str]:
    """Return what a runner keeps for a policy besides states, as ``faults.py`` names it."""
    from export.verification.fault_injection.faults import CHUNKS, FRAMES, QUEUE

    action = spec.action
    found = {FRAMES} if any(observation.frames > 1 for observation in spec.observations) else set()
    found |= {CHUNKS} if action.horizon > 1 else set()
    return found | ({QUEUE} if action.execute > 1 or action.ensemble is not None else set())


def copy_bundle(bundle: Bundle, variants: Iterable[str], path: Path) -> None:
    """Copy a bundle with some of its variants only (names that are no variant are ignored)."""
    builds = tuple(build for build in bundle.manifest.builds if build.variant in variants)
    path.mkdir()
    for name in (GOLDEN, HELD_OUT):
        if (bundle.path / name).exists():
            shutil.copy(bundle.path / name, path / name)
    for build in builds:
        copy_tree(bundle.check(build), path / build.folder)
    write_atomically(path / MANIFEST, replace(bundle.manifest, builds=builds).encode())
