"""The parent's side of a worker: start it, give it turns, notice when it dies, end it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from subprocess import PIPE, Popen, TimeoutExpired
from types import TracebackType

import msgspec

from benchmarks.measure.messages import Assignment, Pace, Reply, Request, Ticks, Turn
from xfer.files import from_json

REPLY_TIMEOUT_S = 300.0
"""How long a worker may be silent beyond the time it was asked for; then it counts as hung."""


class WorkerError(Exception):
    """A worker died, hung, or reported an error; the message says which, in one line."""


class WorkerProcess:
    """One variant in a process of its own, which the system stops between its turns.

    A worker that only waited would let its threads spin for a while, and take time from whoever is next.

    Args:
        assignment: What it runs.
        command: What runs it, without its last word, the assignment; empty for ``worker.py`` here.

    Attributes:
        cold_start_s: From starting the process to its first action, in seconds.
        ready: What the worker said about itself then.

    Raises:
        WorkerError: On entering, if it cannot load the variant.
    """

    def __init__(self, assignment: Assignment, command: tuple[str, ...] = ()) -> None:
        self.assignment = assignment
        self.command = command or (sys.executable, "-P", "-m", "benchmarks.measure.worker")
        self.cold_start_s = 0.0
        self.ready = Reply()

    def __enter__(self) -> WorkerProcess:
        # The same packages as here, however this process came to find them; -P adds no others.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109 - a string is needed
        argument = msgspec.json.encode(self.assignment).decode()
        self._errors = tempfile.TemporaryFile()
        started = time.perf_counter()
        self._process = Popen(
            [*self.command, argument],
            stdin=PIPE,
            stdout=PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            self.ready = self._read(REPLY_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        self.cold_start_s = time.perf_counter() - started
        self._signal("SIGSTOP")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def turn(self, turn: Turn) -> Reply:
        """Let the worker run, and wait for what it measured.

        Raises:
            WorkerError: If it died, hung, or reported an error.
        """
        return self._ask(Request(turn=turn), turn.seconds)

    def keep_pace(self, pace: Pace) -> Ticks:
        """Let the worker act at a fixed rate, and wait for what that gave.

        Raises:
            WorkerError: If it died, hung, or reported an error.
        """
        seconds = (pace.lead_in + 1) / pace.rate_hz + pace.seconds + sum(gap * count for gap, count in pace.gaps)
        ticks = self._ask(Request(pace=pace), seconds).ticks
        assert ticks is not None
        return ticks

    @property
    def pid(self) -> int:
        """The worker's process, until it is closed."""
        return self._process.pid

    def _ask(self, request: Request, seconds: float) -> Reply:
        pipe = self._process.stdin
        assert pipe is not None
        self._signal("SIGCONT")
        try:
            pipe.write(msgspec.json.encode(request) + b"\n")
            pipe.flush()
        except OSError:
            raise WorkerError(self._last_words()) from None
        reply = self._read(REPLY_TIMEOUT_S + seconds)
        self._signal("SIGSTOP")
        return reply

    def _signal(self, name: str) -> None:
        """Stop the worker or let it go on; it ends with this process, so it cannot stay behind, stopped."""
        with suppress(ProcessLookupError):  # a dead one is noticed when it does not answer
            os.kill(self._process.pid, getattr(signal, name))

    def close(self) -> None:
        """End the worker: closing its input is enough for a healthy one."""
        self._signal("SIGCONT")
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what a dead worker never read
                continue
        try:
            self._process.wait(timeout=10)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _read(self, seconds: float) -> Reply:
        pipe = self._process.stdout
        assert pipe is not None
        # Killing it ends the blocking read, so that a hung worker cannot hang the others.
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.daemon = True  # an interrupt before it is canceled must not hold up the end for minutes
        watchdog.start()
        try:
            line = pipe.readline()
        finally:
            watchdog.cancel()
            watchdog.join()
        if not line.endswith(b"\n"):
            raise WorkerError(self._last_words())
        reply = from_json(line, Reply)
        if reply.error:
            raise WorkerError(" ".join(reply.error.split()))
        return reply

    def _last_words(self) -> str:
        """Say how the process ended, with the last line that it wrote to standard error."""
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its process {how}" + (f": {last}" if last else "")
