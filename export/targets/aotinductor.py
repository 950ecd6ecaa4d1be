"""AOTInductor: PyTorch's own compiler, ahead of time (https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html).

The package (.pt2) holds machine code for one instruction set and one version of PyTorch; both are checked before it is
loaded. It is code: open only packages of people whose programs you would run.
"""

from __future__ import annotations

import functools
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.libraries import pytorch
from export.libraries.causes import not_loaded
from export.libraries.pytorch import PROFILER, layers, libraries, quiet_compiler
from export.libraries.terminal import quiet
from export.targets import Exported, ExportRequest, Place
from xfer.errors import UnavailableError, UsageError
from xfer.files import from_json, to_json
from xfer.runner import Session
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from torch import Tensor

PRECISIONS = ("fp32", "bf16")
PLACES = ()
FILE = "policy.pt2"
NEEDS = "needs.json"
WIDER = {"AVX2": ("AVX2", "AVX512"), "DEFAULT": ("DEFAULT", "AVX2", "AVX512")}
"""Which processors run code for one of PyTorch's CPU capabilities; another one runs its own only."""

LEVELS = {
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
}
"""What code is compiled for, the best that the processor has, and the processor's flags that it adds to the level below
it (https://gitlab.com/x86-psABIs/x86-64-ABI). Not for everything that it has: few other processors have all of it."""

__all__ = ["PLACES", "PRECISIONS", "PROFILER", "available", "export", "layers", "libraries", "load", "runnable"]


@dataclass(frozen=True)
class Needs:
    """What the machine code was made for.

    Attributes:
        torch: Version of PyTorch, as 2.15.0.
        machine: Architecture, as x86_64.
        capability: PyTorch's name of the vector instructions, as AVX512.
        features: Flags of the processor that the code may use, as in /proc/cpuinfo; empty if they are not known.
    """

    torch: str
    machine: str
    capability: str
    features: tuple[str, ...] = ()

    def missing(self, here: Needs) -> str | None:
        """Return what a machine lacks to run it, or None."""
        if self.torch != here.torch:
            return f"it was built by PyTorch {self.torch}, and this is {here.torch}"
        if self.machine != here.machine:
            return f"it was built for {self.machine}, and this is {here.machine}"
        if here.capability not in WIDER.get(self.capability, (self.capability,)):
            return f"it was built for {self.capability}, and this processor has {here.capability}"
        if here.features and (lacking := sorted({*self.features} - {*here.features})):
            return f"it was built for a processor with {', '.join(lacking)}, which this one lacks"
        return None


def available() -> str | None:
    """PyTorch, and a C++ compiler."""
    return pytorch.available() or pytorch.no_compiler()


def runnable(place: str) -> str | None:
    """PyTorch; no compiler."""
    return pytorch.available()


def needs() -> Needs:
    """Return what this machine has."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return Needs(torch.__version__.partition("+")[0], platform.machine(), capability, _flags())


def _flags() -> tuple[str, ...]:
    """Return the processor's flags, as Linux names them; nothing on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    found = (
        re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if cpuinfo.exists()
        else None
    )
    return tuple(sorted({*found[1].split()})) if found else ()


def level(features: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return what to compile for on a processor with these flags, and those of them that the code may then use.

    Where there is no such level (or PyTorch, before 2.14, takes none) code is compiled for all that the processor has.
    """
    from torch._inductor.config import cpp
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    names = [*LEVELS]
    for index, name in enumerate(names if hasattr(cpp, "march") else ()):
        needed = {flag for lower in names[index:] for flag in LEVELS[lower].split()}
        if needed <= {*features}:
            # Inductor asks for more by itself, where it is there: "-mavx512vnni" is the flag avx512_vnni.
            options = pick_vec_isa().build_arch_flags().split()
            asked = {option.removeprefix("-m").replace("-", "") for option in options}
            return name, tuple(flag for flag in features if flag in needed or flag.replace("_", "") in asked)
    return None, features


def export(request: ExportRequest, folder: Path, precision: str) -> Exported:
    """Compile with constants folded in, for a batch of 1: with a free batch the code is a third slower.

    bf16 is for processors with instructions for it (AMX, AVX512-BF16); on others it is slower than fp32.
    """
    import torch
    from torch._inductor import aoti_compile_and_package, config

    from export.libraries.pytorch import example_inputs

    quiet_compiler()
    module, here = request.policy.deploy(precision), needs()
    with quiet():
        march, features = level(here.features)
    patches = {"freezing": True} | ({"cpp.march": march} if march else {})
    with torch.no_grad(), quiet(), config.patch(patches):
        program = torch.export.export(module, example_inputs(request.spec, batch=1))
        aoti_compile_and_package(program, package_path=str(folder / FILE))
    (folder / NEEDS).write_bytes(to_json(replace(here, features=features)))
    return Exported(max_batch=1, notes=f"machine code for {march or 'this processor'}")


@contextmanager
def load(folder: Path, spec: PolicySpec, place: Place) -> Iterator[Session]:
    """Load the machine code, where it can run."""
    if (reason := runnable(place.name)) is not None:
        raise UnavailableError(f"aotinductor: {reason}")
    if (reason := from_json((folder / NEEDS).read_bytes(), Needs).missing(needs())) is not None:
        raise UnavailableError(f"aotinductor: {reason}. Export it there.")
    from torch._inductor import aoti_load_package

    from xfer.models.torch_session import TorchSession, set_threads

    quiet_compiler()
    set_threads(place.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = aoti_load_package(str(folder / FILE))
        except RuntimeError as error:
            raise not_loaded(error, f"{folder / FILE}: PyTorch cannot load it: {error}") from error

    @functools.wraps(module, updated=())
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        if len(inputs[0]) != 1:  # the machine code itself would not notice
            raise UsageError(f"A batch of {len(inputs[0])} does not fit: aotinductor takes 1.")
        return tuple(module(*inputs))

    yield TorchSession(run, spec)
