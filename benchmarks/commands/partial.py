"""The report so far: a bench that is killed leaves what it measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import write
from benchmarks.report.conclusion import conclude
from benchmarks.report.data import Report
from xfer.errors import UsageError
from xfer.files import write_atomically

MAX_SHARE = 0.05
"""Largest share of a bench's time that goes into writing unfinished reports: raw samples grow to many megabytes."""


class Partial:
    """Writes the report so far, in the pauses between turns.

    Args:
        folder: Folder of the report; ``report.json`` in it is replaced as a whole.
        stream: Whether to print it as one line of stdout too.
    """

    def __init__(self, folder: Path, *, stream: bool) -> None:
        self.folder, self.stream = folder, stream
        self._rest_until = 0.0

    def publish(self, so_far: Callable[[], Report]) -> None:
        """Write what ``so_far`` returns, unless the last time was only just now and took long.

        Raises:
            UsageError: If the folder cannot be written to.
        """
        began = time.monotonic()
        if began < self._rest_until:
            return
        report = so_far()
        line = write.to_json(report, conclude(report))
        try:
            write_atomically(self.folder / "report.json", line.encode())
        except OSError as error:
            raise UsageError(f"{self.folder} {error.strerror}. Choose another --output.") from error
        if self.stream:
            sys.stdout.flush()
            sys.stdout.buffer.write(line.encode())  # for programs: UTF-8, whatever the terminal has
            sys.stdout.buffer.flush()
        now = time.monotonic()
        self._rest_until = now + (now - began) / MAX_SHARE
