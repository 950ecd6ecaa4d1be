"""Every command that a test of the suite runs, and that is refused, says why in one line, and shows no traceback.

``watch`` has ``conftest.py`` look at all of them: those that run in this process, and those in processes of their own.
"""

import io
import subprocess
import sys

import pytest

from tests import processes
from xfer import cli

REFUSED = (1, 2)
"""Exit statuses of errors. Others are no refusal: an interrupt, a closed pipe, a signal."""


def check(status: int | None, errors: str, words: object) -> None:
    """Look at what a command wrote to stderr.

    Raises:
        AssertionError: If it shows a traceback, or was refused with anything but one line.
    """
    assert "Traceback (most recent call last)" not in errors, f"xfer {words}:\n{errors}"
    ours = [line for line in errors.splitlines() if line.startswith("xfer: ")]
    # What the command line itself refuses (an unknown option) is told in a box, by the library that reads it.
    if status in REFUSED and ours:
        assert len(ours) == 1, f"xfer {words}:\n{errors}"
        assert errors.rstrip().endswith(ours[0]), f"xfer {words} says more than why it was refused:\n{errors}"
        assert "--debug shows the traceback" not in ours[0], f"xfer {words} did not expect this:\n{errors}"


class Both(io.TextIOBase):
    """Writes to two streams."""

    def __init__(self, one: io.TextIOBase, other: io.StringIO) -> None:
        self.one, self.other = one, other

    def write(self, text: str) -> int:
        self.other.write(text)
        return self.one.write(text)

    def flush(self) -> None:
        self.one.flush()

    def __getattr__(self, name):
        return getattr(self.one, name)


def watch(patch: pytest.MonkeyPatch) -> None:
    """Look at every command from now on."""
    main, run, wait = cli._main, subprocess.run, processes.Command.wait

    def in_this_process(words):
        said, errors = io.StringIO(), sys.stderr
        sys.stderr = Both(errors, said)
        try:
            status = main(words)
        finally:
            sys.stderr = errors
        if "--debug" not in words:
            check(status, said.getvalue(), words)
        return status

    def in_its_own(words, *args, **options):
        done = run(words, *args, **options)
        if is_a_command(words) and done.stderr is not None:
            errors = done.stderr if isinstance(done.stderr, str) else done.stderr.decode(errors="replace")
            check(done.returncode, errors, words)
        return done

    def forked(self, timeout):
        status = wait(self, timeout)
        check(status, self.stderr, "")
        return status

    patch.setattr(cli, "_main", in_this_process)
    patch.setattr(subprocess, "run", in_its_own)
    patch.setattr(processes.Command, "wait", forked)


def is_a_command(words: object) -> bool:
    """Whether a process is ``xfer``."""
    return isinstance(words, list | tuple) and "xfer.cli" in [str(word) for word in words]
