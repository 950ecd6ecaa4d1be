"""Builds variants of one policy into a bundle: what has not changed is skipped, what fails does not stop the rest."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from export import targets
from export.bundle.machine import this_machine
from export.bundle.manifest import Build, Provenance
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter, References, content_key
from export.importers import ImportOptions
from export.importers._choose import import_policy
from export.importers._deployable import Deployable
from export.libraries import causes, pytorch
from export.onnx_graph import GraphPolicy, count
from export.targets import ExportOptions, ExportRequest, Variant, expand
from xfer import __version__, tasks
from xfer.errors import UnavailableError, UsageError
from xfer.spec import PolicySpec
from xfer.trajectories import MEMORY, Trajectories

if TYPE_CHECKING:
    from export.verification.repair.bundle import Repaired
    from xfer.models.policy import Exportable

MAX_MEMORY = MEMORY / 1e9
"""How much of the recorded observations is in memory at once, in GB."""
DEFAULT_TARGETS = "eager,torchscript,onnx-fp32,onnx-int8,tensorrt"
GRAPH_TARGETS = "onnx-fp32,onnx-int8,tensorrt"
"""The default of a policy that comes as an ONNX graph: of it, no module can be made."""
EAGER = "eager-fp32"
"""The reference of a policy that is made of PyTorch."""


@dataclass(frozen=True)
class ExportResult:
    """What ``export`` did.

    Attributes:
        path: The bundle's folder.
        builds: For each variant its entry in the manifest, and whether the bundle had it already.
        repairs: What became of each int8 variant, where repair was asked for.
    """

    path: Path
    builds: tuple[tuple[Build, bool], ...]
    repairs: tuple[Repaired, ...] = ()

    @property
    def bundle(self) -> Bundle:
        """The bundle, opened."""
        return Bundle(self.path)

    @property
    def not_rebuilt(self) -> tuple[Build, ...]:
        """Failures of variants whose build of before, which is whole, is still in the bundle."""
        present = self.bundle.builds
        return tuple(b for b, _ in self.builds if b.status == "failed" and present[b.variant].status == "built")


def export(
    source: str | Path | Deployable,
    targets: str | Sequence[str] = DEFAULT_TARGETS,
    output: str | Path | None = None,
    *,
    importing: ImportOptions | None = None,
    options: ExportOptions | None = None,
    repair: bool = False,
    max_memory: float = MAX_MEMORY,
    command: str = "",
    on_step: Callable[[str], None] = lambda text: None,
    on_note: Callable[[str], None] = lambda text: None,
    on_build: Callable[[Build, bool], None] = lambda build, cached: None,
    on_repair: Callable[[Repaired], None] = lambda repaired: None,
) -> ExportResult:
    """Make a bundle of a policy, or add variants to it. A variant that fails does not stop the others.

    Args:
        source: The policy: a folder of a finished `xfer train`; module:function, which returns a ``Deployable``; a
            file; or a ``Deployable`` itself.
        targets: Targets or variants, as a sequence or with commas between them. The default is ``GRAPH_TARGETS`` of a
            policy that comes as a graph.
        output: The bundle's folder. Default: the source's name with .bundle.
        importing: How to import a policy that was trained elsewhere.
        options: What targets are told.
        repair: Verify int8 variants (numbers and actions); where one is rejected, leave as few of its layers in float
            as it takes.
        max_memory: How much of the recorded observations may be in memory at once, in GB. More stay in their file.
        command: What would build this again, for the manifest.
        on_step: Called with the name of each step.
        on_note: Called with what recording observations will take, before it begins.
        on_build: Called after each build, with whether the bundle had it already.
        on_repair: Called for each int8 variant, where repair was asked for.

    Raises:
        UsageError: If a name does not exist, an option does not fit, or PyTorch is not installed.
        BundleError: If ``output`` is something else, holds another policy, or cannot be written to.
        FidelityError: If the policy cannot be exported unchanged.
        XferError: If the policy cannot be read.

    Example::

        result = export("runs/cartpole", "eager,onnx-int8")
        with result.bundle.runner("onnx-int8") as runner: ...
    """
    variants = buildable(targets)
    if missing := pytorch.available():
        raise UsageError(f"A policy is exported where PyTorch is: {missing}")
    importing = importing or ImportOptions()
    tasks.trust(importing.task)
    if not 0 < max_memory < math.inf:
        raise UsageError(f"--max-memory {max_memory:g} must be a positive number of GB.")
    memory = int(max_memory * 1e9)
    on_step("reading the policy")
    imported, path = import_policy(source, importing, Path(output) if output is not None else None, memory, on_note)
    with tasks.truncated(tasks.max_episode_steps() or imported.max_episode_steps):
        policy = imported.policy
        if isinstance(policy, GraphPolicy) and targets == DEFAULT_TARGETS:
            variants = buildable(GRAPH_TARGETS)
        request = ExportRequest(policy, policy.spec, imported.calibration, options or ExportOptions())
        run = str(imported.folder.resolve())
        builder = Builder(
            request,
            lambda: imported.held_out,
            path,
            run=run,
            command=command,
            reference=imported.reference,
            renew=imported.renewed,
            on_step=on_step,
        )
        built: dict[Variant, tuple[Build, bool]] = {}

        def build(variant: Variant, float_layers: tuple[str, ...] | None = None) -> None:
            on_step(f"exporting {variant}")
            built[variant] = builder.build(variant, float_layers)
            on_build(*built[variant])

        for variant in variants:
            build(variant)
        repairs: list[Repaired] = []
        if repair:
            from export.verification.repair.bundle import repair_bundle

            repairs = repair_bundle(
                path, request, variants, imported.held_out, build, on_step, on_repair, memory=memory // 4
            )
    return ExportResult(path, tuple(built.values()), tuple(repairs))


def buildable(names: str | Sequence[str]) -> list[Variant]:
    """Return the variants that a list names, none of which says where to run.

    Raises:
        UsageError: If there is none, one does not exist, or one has an @.
    """
    variants = expand(names if isinstance(names, str) else ",".join(names))
    if not variants:
        raise UsageError(f"--targets names nothing. Choose from: {', '.join(targets.names())}.")
    if placed := [str(variant) for variant in variants if variant.place]:
        raise UsageError(f"{placed[0]} says where to run; leave out the @ to export.")
    return variants


def export_policy(
    policy: Exportable | GraphPolicy,
    spec: PolicySpec,
    calibration: Trajectories,
    held_out: Trajectories,
    variants: list[Variant],
    path: Path,
    *,
    run: str,
    options: ExportOptions | None = None,
    command: str = "",
    on_start: Callable[[Variant], None] | None = None,
    on_build: Callable[[Build, bool], None] | None = None,
) -> list[tuple[Build, bool]]:
    """Build each variant into the bundle at ``path``: a ``Builder`` and its ``build`` in one.

    Args:
        policy: See ``Builder``, as for all that is not named here.
        spec: Its contract.
        calibration: Observations recorded while the policy acted, for int8.
        held_out: Observations that variants are judged on; golden is some of them.
        variants: What to build.
        path: The bundle's folder.
        run: Where the policy came from.
        options: What targets are told.
        command: What would build this again.
        on_start: Called before each build.
        on_build: Called after each, with whether it was there already.

    Returns:
        For each variant its entry, and whether it was there already.

    Raises:
        BundleError: If ``path`` is something else, holds another policy, or cannot be written to.
    """
    request = ExportRequest(policy, spec, calibration, options or ExportOptions())
    builder = Builder(request, lambda: held_out, path, run=run, command=command)
    results = []
    for variant in variants:
        if on_start:
            on_start(variant)
        results.append(builder.build(variant))
        if on_build:
            on_build(*results[-1])
    return results


class Builder:
    """Builds variants of one policy into one bundle.

    Args:
        request: The policy, in eval mode, and what targets are told.
        held_out: Returns observations that variants are judged on; called if the bundle is new, or lacks what the live
            policy does on them. That is recorded then: see ``export/verification/fidelity/``.
        path: The bundle's folder; made if it is not there.
        run: Where the policy came from, for the manifest.
        command: What would build this again, for the manifest.
        reference: The variant that all others are compared with, for the manifest.
        renew: Whether the observations are others than those that the bundle may have been made with.
        on_step: Called with the name of each step.

    Raises:
        BundleError: If ``path`` is something else, holds another policy, or cannot be written to.
        FidelityError: If the bundle would be new, and the policy cannot be exported unchanged.
    """

    def __init__(
        self,
        request: ExportRequest,
        held_out: Callable[[], Trajectories],
        path: Path,
        *,
        run: str,
        command: str = "",
        reference: str = EAGER,
        renew: bool = False,
        on_step: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._request, self._command = request, command
        provenance = replace(describe(request.policy, run), max_episode_steps=tasks.max_episode_steps())
        self._facts = {
            "xfer": __version__,
            "weights": provenance.weights,
            "spec": msgspec.to_builtins(request.spec),
            "instruction_set": this_machine().instruction_set,
        }
        self._writer = BundleWriter(path)

        def references() -> References:
            from export.verification.fidelity.gate import act_live  # which needs torch

            return act_live(request, held_out(), on_step)

        self._writer.begin(request.spec, provenance, references, reference, renew=renew)
        self._writer.sweep()

    @cached_property
    def _calibration_digest(self) -> str:
        return self._request.calibration.digest()

    def build(self, variant: Variant, float_layers: tuple[str, ...] | None = None) -> tuple[Build, bool]:
        """Build one variant, unless the bundle has it. A failure takes no build away that is whole.

        Args:
            variant: Which.
            float_layers: Layers that int8 leaves in float; by default those that the request names, or else those that
                a repair has found for the build in the bundle.

        Returns:
            What was built or why not, and whether it was there already.
        """
        module = targets.load(variant.target)
        writer, request = self._writer, self._request
        present = Bundle(writer.path).builds.get(variant.build)
        if (reason := module.available()) is not None:
            if present is not None and present.status == "built":  # elsewhere
                return present, False
            return writer.add(Build(variant.build, "unavailable", reason, command=self._command)), False
        calibration = ""
        if variant.precision == "int8":
            calibration = self._calibration_digest
            if float_layers is None:
                repaired = present.options.get("float_layers", ()) if present is not None else ()
                float_layers = request.options.float_layers or tuple(repaired)
            request = replace(request, options=replace(request.options, float_layers=float_layers))
        options, libraries = request.options.plain(), module.libraries()
        facts = {"options": options, "calibration": calibration, "libraries": libraries, "variant": variant.build}
        key = content_key({**self._facts, **facts})
        if present is not None and present.key == key and present.status == "built" and writer.is_whole(present):
            return present, True
        start = time.perf_counter()
        build = Build(
            variant.build,
            "built",
            key=key,
            libraries=libraries,
            options=options,
            instruction_set=this_machine().instruction_set,
            calibration=calibration,
            command=self._command,
        )
        with writer.temporary_folder() as folder:
            try:
                exported = module.export(request, folder, variant.precision)
            except UnavailableError as error:
                return writer.add(replace(build, status="unavailable", reason=str(error))), False
            except Exception as error:  # whatever a converter raises: this variant failed, the others go on
                seconds = time.perf_counter() - start
                failed = replace(build, status="failed", reason=causes.reason(error), seconds=seconds)
                if writer.add(failed).status == "built":
                    failed = replace(failed, reason=f"{failed.reason}; the build of before is kept")
                return failed, False
            build = replace(
                build,
                max_batch=exported.max_batch,
                compute_capabilities=exported.compute_capabilities,
                notes=exported.notes,
                seconds=time.perf_counter() - start,
            )
            return writer.add(build, folder), False


def describe(policy: Exportable | GraphPolicy, run: str) -> Provenance:
    """Say where a policy came from and which graph it is; of somebody else's, backbone, tap and head stay empty."""
    from export.importers._deployed import digest
    from xfer.models.checkpoint import weights_bytes
    from xfer.models.policy import Policy, count_macs

    if isinstance(policy, GraphPolicy):
        return Provenance(run, digest(policy), "", "", "", *count(policy), __version__)
    counted = (*count_macs(policy), __version__)
    if isinstance(policy, Policy):
        weights = hashlib.sha256(weights_bytes(policy)).hexdigest()
        return Provenance(run, weights, policy.config.backbone, policy.config.tap, policy.config.head, *counted)
    return Provenance(run, digest(policy), "", "", "", *counted)
