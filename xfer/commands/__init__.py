"""What every command takes. A command is a module with a dataclass ``Args`` and ``main(args)``.

It may bring ``parse(words)``, which returns the ``Args`` of a command line; else tyro does that by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(kw_only=True)
class Common:
    """Options that every command has."""

    json: bool = False
    """Print one JSON object as the last line of stdout, for programs."""
    debug: bool = False
    """Show a traceback instead of one line when something goes wrong."""


def read_arguments(kind: type[T], command: str, words: Sequence[str], default: T | None = None, note: str = "") -> T:
    """Return the ``Args`` of a command line; a nested configuration class is a group of options.

    Args:
        kind: The command's ``Args``.
        command: Its name.
        words: What the user wrote after it.
        default: Values of options that are not given, where they are not the class's.
        note: What ``--help`` says besides the class's docstring.

    Raises:
        SystemExit: After ``--help``, or if an option is unknown or not of its type.
    """
    import tyro

    text = f"{inspect.getdoc(kind)}\n\n{note}".strip()
    more: dict[str, Any] = {} if default is None else {"default": default}
    result: T = tyro.cli(
        kind, prog=f"xfer {command}", args=words, config=(tyro.conf.OmitArgPrefixes,), description=text, **more
    )
    return result
