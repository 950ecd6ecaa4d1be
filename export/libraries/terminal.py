"""What libraries write to the terminal, kept off it."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Keep off the terminal what libraries warn of, print, log, and write to stderr in C++; give the last of these.

    C++ that is called through pybind11 may write to Python's stderr, else it writes to the process's.
    """
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        tempfile.TemporaryFile("w+", buffering=1, encoding="utf-8", errors="replace") as written,
        redirect_stderr(written),
    ):
        warnings.simplefilter("ignore")
        stderr = os.dup(2)
        os.dup2(written.fileno(), 2)

        def said() -> str:
            written.seek(0)
            return written.read().strip()

        try:
            yield said
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
