"""Builds variants of one policy into a bundle: what has not changed is skipped, what fails does not stop the rest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from export import targets
from export.bundle.machine import this_machine
from export.bundle.manifest import Build, Provenance
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter, content_key
from export.targets import ExportOptions, ExportRequest, Variant
from xfer import __version__
from xfer.errors import XferError
from xfer.runner import Runner
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from xfer.models.policy import Exportable


def export_policy(
    policy: Exportable,
    spec: PolicySpec,
    calibration: Trajectories,
    golden: Trajectories,
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
        calibration: Observations it met, for int8.
        golden: Observations for the golden trajectories.
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
    builder = Builder(request, lambda: golden, path, run=run, command=command)
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
        golden: Returns observations for the golden trajectories; called if the bundle is new. Eager's actions and
            scores are computed here.
        path: The bundle's folder; made if it is not there.
        run: Where the policy came from, for the manifest.
        command: What would build this again, for the manifest.

    Raises:
        BundleError: If ``path`` is something else, holds another policy, or cannot be written to.
    """

    def __init__(
        self, request: ExportRequest, golden: Callable[[], Trajectories], path: Path, *, run: str, command: str = ""
    ) -> None:
        self._request, self._command = request, command
        provenance = describe(request.policy, run)
        self._facts = {
            "xfer": __version__,
            "weights": provenance.weights,
            "spec": msgspec.to_builtins(request.spec),
            "instruction_set": this_machine().instruction_set,
        }
        self._writer = BundleWriter(path)
        self._writer.begin(request.spec, provenance, lambda: golden().replay(_eager(request)))
        self._writer.sweep()

    @cached_property
    def _calibration_digest(self) -> str:
        return self._request.calibration.digest()

    def build(self, variant: Variant, float_layers: tuple[str, ...] | None = None) -> tuple[Build, bool]:
        """Build one variant, unless the bundle has it.

        Args:
            variant: Which.
            float_layers: Layers that int8 leaves in float; by default those that the request names, or else those that
                a repair has found for the build in the bundle.

        Returns:
            Its entry, and whether it was there already.
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
            except Exception as error:  # whatever a converter raises: this variant failed, the others go on
                what = "" if isinstance(error, XferError) else f"{type(error).__name__}: "
                reason = what + " ".join(str(error).split())[:500]
                seconds = time.perf_counter() - start
                return writer.add(replace(build, status="failed", reason=reason, seconds=seconds)), False
            build = replace(
                build,
                max_batch=exported.max_batch,
                compute_capabilities=exported.compute_capabilities,
                notes=exported.notes,
                seconds=time.perf_counter() - start,
            )
            return writer.add(build, folder), False


def _eager(request: ExportRequest) -> Runner:
    from xfer.models.torch_session import TorchSession

    return Runner(TorchSession(request.policy.deploy(), request.spec), request.spec)


def describe(policy: Exportable, run: str) -> Provenance:
    """Say where a policy came from and which graph it is; of somebody else's, backbone, tap and head stay empty."""
    from xfer.models.checkpoint import weights_bytes
    from xfer.models.policy import Policy, count_macs

    counted = (*count_macs(policy), __version__)
    if isinstance(policy, Policy):
        weights = hashlib.sha256(weights_bytes(policy)).hexdigest()
        return Provenance(run, weights, policy.config.backbone, policy.config.tap, policy.config.head, *counted)
    from export.importers._deployed import digest

    return Provenance(run, digest(policy), "", "", "", *counted)
