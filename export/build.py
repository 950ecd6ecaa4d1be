"""Builds variants of one policy into a bundle: what has not changed is skipped, what fails does not stop the rest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from export import target
from export.bundle import Build, Bundle, Provenance
from export.records import this_machine
from export.target import ExportOptions, ExportRequest, Variant
from export.writer import BundleWriter, content_key
from xfer import __version__
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from xfer.policy import Policy


def export_policy(
    policy: Policy,
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
    """Build each variant into the bundle at ``path``.

    Args:
        policy: The policy, in eval mode.
        spec: Its contract.
        calibration: Observations it met, for int8.
        golden: Observations for the golden trajectories; eager's actions and scores are computed here.
        variants: What to build.
        path: The bundle's folder; made if it is not there.
        run: Where the policy came from, for the manifest.
        options: What targets are told.
        command: What would build this again, for the manifest.
        on_start: Called before each build.
        on_build: Called after each, with whether it was there already.

    Returns:
        For each variant its entry, and whether it was there already.

    Raises:
        BundleError: If ``path`` is something else, holds another policy, or cannot be written to.
    """
    from xfer.checkpoint import weights_bytes
    from xfer.policy import count_macs
    from xfer.runner import Runner
    from xfer.torch_session import TorchSession

    options = options or ExportOptions()
    request = ExportRequest(policy, spec, calibration, options)
    writer = BundleWriter(path)
    weights = hashlib.sha256(weights_bytes(policy)).hexdigest()
    parameters, macs = count_macs(policy)
    config = policy.config
    provenance = Provenance(run, weights, config.backbone, config.tap, config.head, parameters, macs, __version__)
    writer.begin(spec, provenance, golden.acted_by(Runner(TorchSession(policy.deploy(), spec), spec)))
    writer.sweep()
    facts = {
        "xfer": __version__,
        "weights": weights,
        "spec": msgspec.to_builtins(spec),
        "options": msgspec.to_builtins(options),
        "instruction_set": this_machine().instruction_set,
    }
    results = []
    for variant in variants:
        if on_start:
            on_start(variant)
        result = _build(writer, request, variant, facts, command)
        results.append(result)
        if on_build:
            on_build(*result)
    return results


def _build(
    writer: BundleWriter, request: ExportRequest, variant: Variant, facts: dict[str, Any], command: str
) -> tuple[Build, bool]:
    module = target.load(variant.target)
    if (reason := module.available()) is not None:
        build = Build(variant.build, "unavailable", reason, command=command)
        return _keep_present(writer, build), False
    calibration = request.calibration.digest() if variant.precision == "int8" else ""
    facts = {**facts, "calibration": calibration, "libraries": module.libraries(), "variant": variant.build}
    key = content_key(facts)
    present = Bundle(writer.path).builds.get(variant.build)
    if present is not None and present.key == key and present.status == "built" and writer.is_whole(present):
        return present, True
    start = time.perf_counter()
    build = Build(
        variant.build,
        "built",
        key=key,
        libraries=module.libraries(),
        options=msgspec.to_builtins(request.options),
        instruction_set=this_machine().instruction_set,
        calibration=calibration,
        command=command,
    )
    with writer.temporary_folder() as folder:
        try:
            exported = module.export(request, folder, variant.precision)
        except Exception as error:  # whatever a converter raises: this variant failed, the others go on
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
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


def _keep_present(writer: BundleWriter, build: Build) -> Build:
    """Enter a build that is unavailable here, unless the bundle holds one that was built elsewhere."""
    present = Bundle(writer.path).builds.get(build.variant)
    return present if present is not None and present.status == "built" else writer.add(build)
