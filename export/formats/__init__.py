"""Formats that `xfer pack` writes: one file each, with the names of the ``Format`` protocol below.

The folder's listing is the list of formats, and of the choices of ``--format``.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.targets import Variant
from xfer.errors import UsageError, check_choice


class Format(Protocol):
    """The names that a module in ``export/formats/`` defines.

    Attributes:
        SUFFIX: What the name of its output ends in, as ``.bundle``.
        TARGETS: The targets whose variants it can pack, or None for all.
    """

    SUFFIX: str
    TARGETS: tuple[str, ...] | None

    def write(self, output: Path, bundle: Bundle, build: Build) -> None:
        """Write one variant of a bundle to ``output``.

        Raises:
            BundleError: If the variant's files are damaged, or ``output`` is something else or cannot be written to.
        """


def names() -> list[str]:
    """Return the names of all formats, xfer's own first."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(found, key=lambda name: (name != "xfer", name))


def load(name: str) -> Format:
    """Return a format's module.

    Raises:
        UsageError: If there is none, with the closest name.
    """
    check_choice("format", name, names())
    return cast(Format, importlib.import_module(f"{__name__}.{name}"))


def pack(bundle: Bundle, name: str, output: Path | None = None, format: str = "xfer") -> Path:
    """Write one variant of a bundle in a format.

    Args:
        bundle: The bundle.
        name: TARGET-PRECISION.
        output: Where to; by default BUNDLE-VARIANT with the format's suffix, beside the bundle.
        format: One of ``names()``.

    Returns:
        Where it is now.

    Raises:
        UsageError: If the variant says where to run, is not in the bundle or does not fit the format, or the output is
            the bundle itself.
        BundleError: If the bundle is damaged, or the output is something else.
    """
    bundle.check_known(name)
    module, variant = load(format), Variant.parse(name)
    if variant.place:
        raise UsageError(f"{variant} says where to run; leave out the @ to pack.")
    if module.TARGETS is not None and variant.target not in module.TARGETS:
        can = [present for present in bundle.builds if present.partition("-")[0] in module.TARGETS]
        use = f": use {' or '.join(can)}" if can else ""
        raise UsageError(f"--format {format} packs {'/'.join(module.TARGETS)} variants, and {variant} is none{use}.")
    build = bundle.build(variant.build)
    output = output or bundle.path.with_name(f"{bundle.path.stem}-{variant.build}{module.SUFFIX}")
    if output.resolve() == bundle.path.resolve():
        raise UsageError(f"--output {output} is the bundle itself. Choose another one.")
    module.write(output, bundle, build)
    return output
