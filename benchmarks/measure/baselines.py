"""What a speed-up is against: the reference on the very device that the variant runs on.

    on a GPU                        reference@cuda        eager-fp32@cuda
    there, by CUDA graphs           reference@cudagraphs  eager-fp32@cudagraphs
    elsewhere                       reference             eager-fp32

A GPU's time divided by a processor's says what the GPU is worth, not what the export is. So the reference takes part on
the GPU too wherever a variant does, and ``compile`` beside it; a variant whose baseline was not measured has no
speed-up. The runtime whose calls are replayed as a CUDA graph is the C++ one with TensorRT's engines
(``export/runtime/plugins/tensorrt.cpp``).

No GPU was available where this was written: what runs on one never ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.measure.protocol import Candidate
from export import targets
from export.bundle.reader import Bundle, why_not
from export.targets import Variant

COMPILED = "compile-fp32@cuda"
"""What PyTorch itself makes of the policy on a GPU, without an export."""


def baseline_of(candidate: Candidate, reference: str) -> str:
    """Return the variant that a candidate's speed-up is against.

    Example:
        >>> from pathlib import Path
        >>> baseline_of(Candidate("onnx-fp16@cuda", Path(), "onnx-fp16@cuda"), "eager-fp32")
        'eager-fp32@cuda'
    """
    if not candidate.on_gpu:
        return reference
    return f"{reference}@{'cudagraphs' if by_cuda_graphs(candidate) else 'cuda'}"


def by_cuda_graphs(candidate: Candidate) -> bool:
    """Whether its calls are replayed as a CUDA graph."""
    variant = Variant.parse(candidate.variant)
    return variant.place == "cudagraphs" or (bool(candidate.worker) and variant.target == "tensorrt")


def given(candidates: Sequence[Candidate], reference: str) -> list[Candidate]:
    """Give each candidate its baseline, where that is measured too."""
    names = {candidate.name for candidate in candidates}
    wanted = [baseline_of(candidate, reference) for candidate in candidates]
    return [
        replace(candidate, baseline=baseline if baseline in names else "")
        for candidate, baseline in zip(candidates, wanted, strict=True)
    ]


def added(bundle: Bundle, names: Sequence[str], *, in_cpp: bool = False) -> list[str]:
    """Return the names of rows, with the baselines that rows on a GPU need, where they can run here.

    Args:
        bundle: The bundle.
        names: The variants that have a row.
        in_cpp: Whether each is run in C++ too.
    """
    able = [Candidate(name, bundle.path, name) for name in names if why_not(bundle, name) is None]
    if in_cpp:
        able += [replace(candidate, worker=("xfer-bench",)) for candidate in able]
    on_gpu = [candidate for candidate in able if candidate.on_gpu]
    wanted = [baseline_of(candidate, bundle.reference) for candidate in on_gpu] + [COMPILED] * bool(on_gpu)
    missing = [name for name in dict.fromkeys(wanted) if name not in names and _can_run(bundle, name)]
    return [*names[:1], *missing, *names[1:]]


def notes(candidates: Sequence[Candidate]) -> list[str]:
    """Return what a reader must know of the speed-ups of rows on a GPU: against what they are, and which have none."""
    on_gpu = [candidate for candidate in candidates if candidate.on_gpu]
    against = dict.fromkeys(candidate.baseline for candidate in on_gpu if candidate.baseline)
    without = [candidate.name for candidate in on_gpu if not candidate.baseline]
    told = [f"Speed-ups on the GPU are against {' and '.join(against)}, on the same GPU."] if against else []
    if without:
        told.append(f"No speed-up of {', '.join(without)}: the reference was not measured in the same way on the GPU.")
    return told


def _can_run(bundle: Bundle, name: str) -> bool:
    variant = Variant.parse(name)
    if variant.build not in bundle.builds or variant.place not in targets.load(variant.target).PLACES:
        return False
    return why_not(bundle, name) is None
