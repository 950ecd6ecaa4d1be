"""A user's own code, named ``module:function`` on the command line. Only what the user said themselves is imported."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from xfer.errors import UnavailableError, XferError

LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")), __file__)
"""Where no user's own code is."""


def look_here() -> None:
    """Let modules of the current folder be imported."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


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
        XferError: If the module cannot be imported, or the function fails.
    """
    module_name, _, function = name.partition(":")
    look_here()
    try:
        found: Any = getattr(importlib.import_module(module_name), function, None)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise UnavailableError(f"{kind} {name} needs {error.name}, which is not installed.") from error
        raise
    except XferError:
        raise
    except (Exception, SystemExit) as error:
        raise XferError(f"{kind} {name}: importing {module_name} failed {_said(error)}.") from error
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
