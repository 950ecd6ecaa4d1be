"""A user's own code, named ``module:function`` on the command line. Only what the user said themselves is imported."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from xfer.errors import UnavailableError, UsageError, XferError

HOME = Path(__file__).resolve().parents[1]
"""Folder that the three packages lie in."""

SAFE_PATH, OURS = "PYTHONSAFEPATH", "xfer"
"""Environment variable that keeps Python from looking into the current folder first, and the value that it has here."""

LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")), __file__)
"""Where no user's own code is."""


def look_here() -> None:
    """Let modules of the current folder be imported, if there are none of their names elsewhere."""
    look_here_last()
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def look_here_last() -> None:
    """Move the current folder, which ``python -m`` puts first, to the end of ``sys.path``.

    Then a file of the user's that is called like a module of ours, of Python's or of a library's is in nobody's way.
    """
    try:
        here = Path.cwd().resolve()
    except FileNotFoundError:  # it was deleted
        return
    if here != HOME and (found := [entry for entry in sys.path if Path(entry).resolve() == here]):
        sys.path[:] = [entry for entry in sys.path if entry not in found] + [str(here)]


@contextmanager
def starting_processes() -> Iterator[None]:
    """Meanwhile, let Python processes that are started not look into the current folder first.

    Those of multiprocessing do, until they are given the ``sys.path`` of this one. They call ``started``.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = before or OURS
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def started() -> None:
    """Undo ``starting_processes`` in a process that was started: what a user's code starts is the user's affair."""
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]


def call(name: str, kind: str) -> Any:
    """Return what the function called ``name`` gives, or the object of that name if it is no function.

    The module may lie in the current folder, or be installed.

    Args:
        name: As ``my_package.policies:make``.
        kind: What it is for, for messages: "Task", "Policy".

    Returns:
        What it gave, or None if the module has nothing of that name.

    Raises:
        ModuleNotFoundError: If there is no such module.
        UnavailableError: If the module needs another one that is not installed.
        UsageError: If a file of the current folder was meant, and a module elsewhere has the same name.
        XferError: If the module cannot be imported, or the function fails.
    """
    module_name, _, function = name.partition(":")
    look_here()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise UnavailableError(f"{kind} {name} needs {error.name}, which is not installed.") from error
        raise
    except XferError:
        raise
    except (Exception, SystemExit) as error:
        raise XferError(f"{kind} {name}: importing {module_name} failed {_said(error)}.") from error
    found: Any = getattr(module, function, None)
    if found is None:
        _check_file(module, f"{kind} {name}")
    if not callable(found):
        return found
    try:
        return found()
    except XferError:
        raise
    except (Exception, SystemExit) as error:
        raise XferError(f"{kind} {name} failed {_said(error)}.") from error


def _said(error: BaseException) -> str:
    """Return what an error says, and the innermost line outside of Python's and others' libraries."""
    message = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if Path(frame.filename).is_file() and not frame.filename.startswith(LIBRARIES)]
    if not outside or isinstance(error, SyntaxError):  # which names its file and line itself
        return f"({message})"
    return f"({message}) at {Path(outside[-1].filename).name}:{outside[-1].lineno}"


def _check_file(module: ModuleType, what: str) -> None:
    """Refuse a file of the current folder that is not found, since a module of its name comes first."""
    own = Path(*module.__name__.split(".")).with_suffix(".py")
    place = getattr(module, "__file__", None)
    if own.is_file() and not (place is not None and own.samefile(place)):
        raise UsageError(f"{what}: {own} has the name of the module {place or module.__name__}. Give it another name.")
