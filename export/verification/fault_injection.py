"""What ``xfer verify --self-test`` does: damage copies of a bundle, and see which gate catches each fault.

A verifier that never says no looks just like one that finds nothing wrong. Here it has to say no to every fault of
``export/faults.py``, and must not say it to the bundle itself. The bundle is only read: faults are planted into
copies, in a temporary folder, and no record is kept.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from export import targets
from export.bundle.manifest import GOLDEN, MANIFEST
from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.targets import BASELINE, Variant
from export.verification import reward
from export.verification.faults import FAULTS, Fault
from export.verification.parity import first_gates
from xfer.errors import XferError
from xfer.files import write_atomically
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from rich.table import Table

PAIRS = 10
"""Pairs of episodes at most. A fault that only the reward gate sees loses much, or it would not be seen at all."""


@dataclass(frozen=True)
class Finding:
    """What became of one fault.

    Attributes:
        mistake: Its name.
        what: How it happens, as a sentence.
        caught_by: ``loading``, ``numbers``, ``actions`` or ``reward``; empty if it was let through or not tested.
        detail: What the gate said, or why the fault could not be tested.
        tested: Whether it could be: planted here, and shown to every gate.
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
        """Untouched variants that were rejected."""
        return [name for name, verification in self.untouched.items() if verification.status == "rejected"]

    @property
    def passed(self) -> bool:
        """Whether every fault that could be tested was caught, and nothing else was."""
        return not self.let_through and not self.rejected


@dataclass(frozen=True)
class Gates:
    """The gates as ``xfer verify`` has them.

    Attributes:
        held_out: Observations of episodes kept out of training, with eager's actions and scores.
        pairs: Pairs of episodes at most; 0 leaves the reward gate out.
        workers: Processes that run pairs.
        on_step: Called with what is being done.
    """

    held_out: Trajectories
    pairs: int
    workers: int
    on_step: Callable[[str], None]

    def verdicts(self, bundle: Bundle, variants: list[str]) -> dict[str, Verification]:
        """Take variants up numbers, actions and, where nothing speaks against them, reward."""
        found = first_gates(bundle, variants, self.held_out, lambda name: None)
        if self.pairs == 0 or reward.unavailable(bundle) is not None:
            return found
        return reward.run_gate(
            bundle,
            found,
            self.pairs,
            self.workers,
            lambda done, verdicts: self.on_step(f"{done} of {self.pairs} pairs of episodes"),
        )

    def catch(self, path: Path, variant: str) -> tuple[str, str]:
        """Return which gate rejects a variant of the bundle at ``path``, and what it says.

        Returns:
            ``loading``, ``numbers``, ``actions``, ``reward``, or an empty string if none does.
        """
        try:
            bundle = Bundle(path)
            bundle.check(bundle.build(variant))
            bundle.golden()
        except XferError as error:
            return "loading", str(error).replace(f"{path}/", "")
        found = self.verdicts(bundle, [variant])[variant]
        gate = found.rung if found.status == "rejected" else ""
        return gate, found.reason.removeprefix(f"{gate}: ")


def run(
    bundle: Bundle,
    held_out: Trajectories,
    pairs: int,
    workers: int,
    *,
    faults: Iterable[Fault] = FAULTS,
    on_step: Callable[[str], None] = lambda text: None,
    on_finding: Callable[[Finding], None] = lambda finding: None,
) -> FaultInjection:
    """Plant every fault into a copy of the bundle, and take each copy up the gates; then the bundle itself.

    Args:
        bundle: A bundle with eager in it. It is only read.
        held_out: Observations of episodes kept out of training and calibration.
        pairs: Pairs of episodes at most; 0 leaves the reward gate out.
        workers: Processes that run pairs.
        faults: What to plant.
        on_step: Called with what is being done.
        on_finding: Called after each fault.

    Raises:
        UsageError: If the bundle has no eager.
        BundleError: If eager's files are damaged.
    """
    on_step("what eager does")
    with bundle.runner(BASELINE) as runner:
        held_out = held_out.replay(runner)
    gates = Gates(held_out, pairs, workers, on_step)
    findings = []
    with tempfile.TemporaryDirectory(prefix="xfer-self-test-") as folder:
        for number, fault in enumerate(faults):
            on_step(fault.name)
            findings.append(_find(bundle, fault, Path(folder) / str(number), gates))
            on_finding(findings[-1])
    on_step("the untouched bundle")
    return FaultInjection(tuple(findings), gates.verdicts(bundle, list(bundle.builds)))


def _find(bundle: Bundle, fault: Fault, path: Path, gates: Gates) -> Finding:
    finding = Finding(fault.name, fault.what, "", "", tested=False)
    if (missing := not_plantable(bundle, fault)) is not None:
        return replace(finding, detail=f"not tested: {missing}")
    start = time.perf_counter()
    copy_bundle(bundle, (BASELINE, *fault.needs), path)
    fault.damage(path)
    gate, said = gates.catch(path, fault.variant)
    shutil.rmtree(path)
    finding = replace(finding, caught_by=gate, detail=said, tested=True, seconds=time.perf_counter() - start)
    if gate:
        return finding
    off = "--pairs 0" if gates.pairs == 0 else reward.unavailable(bundle)
    if off is not None:
        return replace(finding, tested=False, detail=f"not tested: only the reward gate is left, and not run ({off})")
    return replace(finding, detail="let through")


def not_plantable(bundle: Bundle, fault: Fault) -> str | None:
    """None if a fault can be planted into this bundle here, else what is missing."""
    there = {state.name for state in bundle.spec.states}
    there |= {name for name, build in bundle.builds.items() if build.status == "built"}
    for need in fault.needs:
        if need not in there:
            return f"the bundle has no {need}"
    return targets.load(Variant.parse(fault.variant).target).available()


def copy_bundle(bundle: Bundle, variants: Iterable[str], path: Path) -> None:
    """Copy a bundle with some of its variants only (names that are no variant are passed over)."""
    builds = tuple(build for build in bundle.manifest.builds if build.variant in variants)
    path.mkdir()
    shutil.copy(bundle.path / GOLDEN, path / GOLDEN)
    for build in builds:
        shutil.copytree(bundle.check(build), path / build.folder)
    write_atomically(path / MANIFEST, replace(bundle.manifest, builds=builds).encode())


def table(result: FaultInjection) -> Table:
    """Draw the findings."""
    from rich.markup import escape
    from rich.table import Table

    drawn = Table("mistake", "caught by", "seconds", "what the gate said", title="Faults, planted into copies")
    for finding in result.findings:
        untested = "[yellow]not tested[/]"
        caught = finding.caught_by or ("[red]nothing[/]" if finding.tested else untested)
        drawn.add_row(
            f"{finding.mistake}\n[dim]{escape(finding.what)}[/]",
            caught,
            f"{finding.seconds:.1f}",
            escape(finding.detail),
        )
    return drawn


def summary(result: FaultInjection) -> str:
    """Return the last line, in rich's markup."""
    tested = [finding for finding in result.findings if finding.tested]
    parts = [f"{len(tested) - len(result.let_through)} of {len(tested)} faults caught"]
    if untested := len(result.findings) - len(tested):
        parts.append(f"[yellow]{untested} could not be tested here[/]")
    if result.let_through:
        parts.append(f"[red]let through: {', '.join(result.let_through)}[/]")
    parts.append(
        f"[red]untouched, but rejected: {', '.join(result.rejected)}[/]"
        if result.rejected
        else "the untouched bundle is not rejected"
    )
    return "; ".join(parts)
