"""What every command takes. A command is a module with a dataclass ``Args`` and ``main(args)``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class Common:
    """Options that every command has."""

    json: bool = False
    """Print one JSON object as the last line of stdout, for programs."""
    debug: bool = False
    """Show a traceback instead of one line when something goes wrong."""
