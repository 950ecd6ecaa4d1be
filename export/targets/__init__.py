"""Targets: one file each, with the names of the ``Target`` protocol below. The folder's listing is the list of targets.

A *variant* is a file that was built: TARGET-PRECISION, as ``onnx-int8``. The execution provider or device that runs it
is written behind an @: ``onnx-fp32@cuda``; code calls it a place. A new target is one file here and one extra in
``pyproject.toml``; the command line, the contract test and the benchmark rows follow from the listing.

A target need not lie here: ``export/targets/NAME.py`` in any other folder of ``sys.path`` (of PYTHONPATH, say) is one
too. Of two files of one name, the one here counts.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from export.libraries.layers import Layer
from export.libraries.opset import OPSET
from xfer.errors import UsageError, check_choice
from xfer.runner import Session
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from export.onnx_graph import GraphPolicy
    from xfer.models.policy import Exportable
    from xfer.trajectories import Trajectories

_elsewhere = (Path(entry, *__name__.split(".")) for entry in sys.path)
__path__ += [str(folder) for folder in _elsewhere if folder.is_dir() and not folder.samefile(__path__[0])]


@dataclass(frozen=True)
class ExportOptions:
    """Options of a build. All of them are part of the build's key.

    Attributes:
        max_batch: Largest batch of a TensorRT optimization profile, and of an ExecuTorch program.
        compute_capabilities: GPUs that a TensorRT-RTX engine is built for, as "89".
        float_layers: Layers that int8 leaves in float, as "policy.trunk.layer1.0.conv2"; ``xfer export --repair``
            finds them.
        opset: Version of ONNX's operators; a newer one needs a newer runtime.
    """

    max_batch: int = 8
    compute_capabilities: tuple[str, ...] = ("80", "86", "89", "120")
    float_layers: tuple[str, ...] = ()
    opset: int = OPSET

    def plain(self) -> dict[str, Any]:
        """Return plain values, without newer options that are not used: older builds keep their content keys."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        defaults = msgspec.to_builtins(ExportOptions())
        newer = ("float_layers", "opset")
        return {name: value for name, value in values.items() if name not in newer or value != defaults[name]}

    @property
    def note(self) -> str:
        """What a reader of the manifest should know about an int8 build."""
        return f"kept in float: {', '.join(self.float_layers)}" if self.float_layers else ""


@dataclass(frozen=True)
class ExportRequest:
    """What a target makes files from.

    Attributes:
        policy: The policy; ``policy.deploy(precision)`` is the module to export. One that came as a graph has none, and
            then that raises ``UnavailableError``; ``write_onnx`` takes both.
        spec: Its contract.
        calibration: Observations recorded while the policy acted, for int8.
        options: See ``ExportOptions``.
    """

    policy: Exportable | GraphPolicy
    spec: PolicySpec
    calibration: Trajectories
    options: ExportOptions


@dataclass(frozen=True)
class Exported:
    """Facts about the files that ``export`` wrote.

    Attributes:
        max_batch: Largest batch that the files accept, None where there is no limit.
        compute_capabilities: GPUs that they run on, where they name any.
        notes: Anything else that a reader of the manifest should know.
    """

    max_batch: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class Place:
    """The execution provider or device that runs a session, and its threads.

    Attributes:
        name: The name behind the @ of a variant, or empty for the target's default.
        threads: Threads inside an operation.
        spin: Whether idle threads spin between two calls (faster, but takes time from other processes).
        precision: The variant's, for a provider that compiles the graph when it is loaded.
        max_batch: The largest batch that such a provider compiles for.
        profile: Whether its library shall record how long each layer takes; see ``Profiled``.
    """

    name: str = ""
    threads: int = 1
    spin: bool = False
    precision: str = "fp32"
    max_batch: int = 8
    profile: bool = False


class Target(Protocol):
    """The names that a module in ``export/targets/`` defines."""

    PRECISIONS: tuple[str, ...]
    PLACES: tuple[str, ...]

    def available(self) -> str | None:
        """None if policies can be exported to this target here, else what is missing and how to get it.

        One sentence a missing thing, as ``X is not installed: pip install X``; several are joined by ``; ``.
        """

    def runnable(self, place: str) -> str | None:
        """None if its variants can be run here on this execution provider or device, else why not, as above."""

    def libraries(self) -> dict[str, str]:
        """Versions of the libraries that build and run it; part of a build's key."""

    def export(self, request: ExportRequest, folder: Path, precision: str) -> Exported:
        """Write files into ``folder``.

        Raises:
            UnavailableError: If nothing of the kind can be made of this policy.
        """

    def load(self, folder: Path, spec: PolicySpec, place: Place) -> AbstractContextManager[Session]:
        """Open what ``export`` wrote.

        Raises:
            UnavailableError: If this machine cannot run it at that place; never a silent fallback.
            BundleError: If the library refuses the files.
        """


class TriedOut(Target, Protocol):
    """A target that can find out, within seconds, whether its library really runs at a place; ``xfer doctor`` asks."""

    def try_out(self, place: str) -> str | None:
        """None if one operation ran there just now, else why not, as ``runnable`` says it."""


class Profiled(Target, Protocol):
    """A target whose library tells how long each layer takes; ``xfer bench --profile`` asks."""

    PROFILER: str
    """Name of the library's profiler."""

    def layers(self, session: Session, act: Callable[[], object], calls: int) -> list[Layer]:
        """Call ``act``, which runs the session once, so often, and return what each layer took, in order.

        Args:
            session: A session that was loaded with ``Place.profile``, and warmed up; it is of no more use then.
            act: Runs it.
            calls: How often.

        Raises:
            UnavailableError: If the library does not tell it here.
        """


class FromGraph(Target, Protocol):
    """A target whose int8 is the Q/DQ graph of ``quantize.py`` for x86, which ``xfer export --repair`` can repair."""

    def write_graph(self, graph: Path, folder: Path) -> None:
        """Write the files that ``load`` opens from an ONNX graph."""


@dataclass(frozen=True)
class Variant:
    """A parsed variant name.

    Example:
        >>> Variant.parse("onnx-fp32@cuda")
        Variant(target='onnx', precision='fp32', place='cuda')
    """

    target: str
    precision: str
    place: str = field(default="")

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read TARGET-PRECISION or TARGET-PRECISION@PLACE.

        Raises:
            UsageError: If target, precision or place does not exist, with the closest that does.
        """
        build, _, place = text.partition("@")
        target, dash, precision = build.partition("-")
        check_choice("target", target, names())
        if not dash:
            raise UsageError(
                f"'{text}' names no precision. Write one of: "
                + ", ".join(f"{target}-{p}" for p in load(target).PRECISIONS)
                + "."
            )
        check_choice(f"precision of target {target}", precision, load(target).PRECISIONS)
        if place:
            check_choice(f"place for target {target}", place, load(target).PLACES)
        return cls(target, precision, place)

    @property
    def build(self) -> str:
        """TARGET-PRECISION: what was built, wherever it runs."""
        return f"{self.target}-{self.precision}"

    def __str__(self) -> str:
        return f"{self.build}@{self.place}" if self.place else self.build


def unknown(variant: str) -> str:
    """Return what this version does not know of a variant that a newer one may have named, or an empty string.

    Example:
        >>> unknown("tpu-fp32"), unknown("onnx-fp32")
        ("target 'tpu'", '')
    """
    build, _, place = variant.partition("@")
    target, _, precision = build.partition("-")
    if target not in names():
        return f"target '{target}'"
    module = load(target)
    if precision not in module.PRECISIONS:
        return f"precision '{precision}' of target {target}"
    return f"place '{place}' of target {target}" if place and place not in module.PLACES else ""


def names() -> list[str]:
    """Return the names of all targets, eager first."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(found, key=lambda name: (name != "eager", name))


def load(name: str) -> Target:
    """Return a target's module. Importing it does not import its library.

    Raises:
        UsageError: If there is none, with the closest name.
    """
    check_choice("target", name, names())
    return cast(Target, importlib.import_module(f"{__name__}.{name}"))


def expand(text: str) -> list[Variant]:
    """Return the variants that a comma-separated list names; a target alone means all of its precisions.

    Example:
        >>> [str(v) for v in expand("torchscript,onnx-int8")]
        ['torchscript-fp32', 'onnx-int8']
    """
    variants: list[Variant] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if "-" in part:
            found = [Variant.parse(part)]
        else:
            found = [Variant(part, precision) for precision in load(part).PRECISIONS]
        variants += [variant for variant in found if variant not in variants]
    return variants
