"""Rebuild on the device: engines for its GPU, from the ONNX in the bundle, without torch (`xfer export --into BUNDLE`).

A new engine takes the place of the one that the bundle had of that variant, since a variant is one build: give each
kind of robot its own copy of the bundle. Records follow files, so it is verified and measured here before
``xfer recommend`` takes it. If nothing has changed, nothing is built.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from export.bundle.machine import this_machine
from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.bundle.writer import BundleWriter, content_key
from export.libraries import installed_versions, user_cache
from export.targets import ExportOptions, Variant, tensorrt
from xfer.errors import UnavailableError, UsageError


def rebuild(
    path: Path,
    variants: list[Variant],
    *,
    max_batch: int = ExportOptions().max_batch,
    compute_capabilities: tuple[str, ...] = (),
    command: str = "",
    on_build: Callable[[Build, bool], None] | None = None,
) -> list[tuple[Build, bool]]:
    """Rebuild engines of the bundle at ``path`` on this device.

    Args:
        path: The bundle's folder.
        variants: Which; each a variant of tensorrt that the bundle holds.
        max_batch: Largest batch of the optimization profile, whose smallest is 1.
        compute_capabilities: GPUs of a TensorRT for RTX engine, as "89". Default: the GPU at hand, and where there is
            none those of ``ExportOptions``. Plain TensorRT builds for the GPU at hand.
        command: What would build this again, for the manifest.
        on_build: Called after each build, with whether it was there already.

    Returns:
        For each variant its entry, and whether it was there already.

    Raises:
        UsageError: If a variant is not of tensorrt, or not in the bundle.
        UnavailableError: If TensorRT is not installed.
        BundleError: If the bundle is damaged or cannot be written to, or TensorRT refuses a graph; the entry that was
            there stays.
    """
    bundle = Bundle(path)
    for variant in variants:
        if variant.target != "tensorrt":
            raise UsageError(
                f"--into rebuilds TensorRT engines, and {variant} is none: write --targets tensorrt, or tensorrt-fp16."
            )
        bundle.build(variant.build)
    library = tensorrt.library_name()
    if library is None:
        raise UnavailableError(f"tensorrt: {tensorrt.no_library()}")
    gpu = tensorrt.gpu()
    own = (gpu,) if gpu else ExportOptions().compute_capabilities
    capabilities = own if library == "tensorrt" else compute_capabilities or own
    writer = BundleWriter(path)
    writer.sweep()
    results = []
    for variant in variants:
        result = _build(writer, variant, max_batch, capabilities, command)
        results.append(result)
        if on_build:
            on_build(*result)
    return results


def _build(
    writer: BundleWriter, variant: Variant, max_batch: int, capabilities: tuple[str, ...], command: str
) -> tuple[Build, bool]:
    bundle = Bundle(writer.path)
    present = bundle.build(variant.build)
    graph = bundle.check(present) / tensorrt.ONNX
    float_layers = tuple(present.options.get("float_layers", ()))
    options = ExportOptions(max_batch, capabilities, float_layers)
    libraries = installed_versions("tensorrt", "tensorrt-rtx-cu13")
    key = content_key(
        {
            "graph": present.files[tensorrt.ONNX].sha256,
            "options": options.plain(),
            "libraries": libraries,
            "gpu": this_machine().gpu,
            "variant": variant.build,
        }
    )
    if present.key == key:
        return present, True
    start = time.perf_counter()
    with writer.temporary_folder() as folder:
        shutil.copyfile(graph, folder / tensorrt.ONNX)
        exported = tensorrt.build_engine(folder, bundle.spec, variant.precision, options, timing_cache())
        build = replace(
            present,
            key=key,
            max_batch=exported.max_batch,
            compute_capabilities=exported.compute_capabilities,
            notes=exported.notes,
            libraries=libraries,
            options=options.plain(),
            instruction_set=this_machine().instruction_set,
            command=command,
            seconds=time.perf_counter() - start,
        )
        return writer.add(build, folder), False


def timing_cache() -> Path:
    """Return where TensorRT's timing cache is kept: in the user's cache folder, so that it outlives a bundle."""
    return user_cache() / f"tensorrt-{tensorrt.gpu()}.timing"
