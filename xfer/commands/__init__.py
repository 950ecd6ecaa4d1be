"""What every command takes. A command is a module with a dataclass ``Args`` and ``main(args)``.

It may bring ``parse(words)``, which returns the ``Args`` of a command line; else tyro does that by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar

import tyro

from xfer import tasks

T = TypeVar("T")


@dataclass(kw_only=True)
class Common:
    """Options that every command has."""

    json: bool = False
    """Print one JSON object as the last line of stdout, for programs."""
    debug: bool = False
    """Show a traceback instead of one line when something goes wrong."""


@dataclass(kw_only=True)
class Episodes(Common):
    """Options of commands that run episodes in a task's environment."""

    max_episode_steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: none)")] = None
    """Truncate episodes after so many steps. Without, one that has not ended after 100,000 is an error."""


E = TypeVar("E", bound=Episodes)


def truncates(main: Callable[[E], dict[str, Any]]) -> Callable[[E], dict[str, Any]]:
    """Let a command truncate episodes as ``--max-episode-steps`` says, in the processes that it starts too."""

    @wraps(main)
    def truncating(args: E) -> dict[str, Any]:
        with tasks.truncated(args.max_episode_steps):
            return main(args)

    return truncating


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
    text = f"{inspect.getdoc(kind)}\n\n{note}".strip()
    more: dict[str, Any] = {} if default is None else {"default": default}
    result: T = tyro.cli(
        kind, prog=f"xfer {command}", args=words, config=(tyro.conf.OmitArgPrefixes,), description=text, **more
    )
    return result
