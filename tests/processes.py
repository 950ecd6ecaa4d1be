"""``xfer`` in a process of its own that starts at once: forked from one that has imported PyTorch already.

For tests that kill a command, interrupt it, or run several at a time; ``xfer.cli.main`` is enough for all others.
``start`` is what they call. This file is also the server that forks: ``python -m tests.processes``.

``PreloadedContext`` does the same for processes that a test starts by multiprocessing.
"""

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "gymnasium.envs.classic_control.cartpole",
    "pygame",
    "torch.utils.tensorboard",
    "xfer.commands.train",
    "xfer.models.torch_session",
    "xfer.training.learners",
    "xfer.training.train",
    "export.commands.verify",
    "benchmarks.commands.bench",
)


class Server:
    """Keeps one process from which commands are forked, and knows how they ended."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "tests.processes"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
        )
        self.folder = tempfile.TemporaryDirectory(prefix="xfer-commands-")
        self._ended: dict[int, int] = {}
        self._started: list[int] = []
        self._rest = b""
        atexit.register(self.close)

    def close(self) -> None:
        """End the server; commands that still run are left to whoever started them."""
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self.folder.cleanup()

    def fork(self, request: dict) -> int:
        """Start a command, and return its process id."""
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        while not self._started:
            self._read(None)
        return self._started.pop()

    def ended(self, pid: int, timeout: float | None) -> int | None:
        """Return how a command ended, as ``Popen.returncode``, or None if it has not within that many seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while pid not in self._ended:
            left = None if until is None else until - time.monotonic()
            if left is not None and left < 0:
                return None
            self._read(left)
        return self._ended[pid]

    def _read(self, timeout: float | None) -> None:
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return
        data = os.read(self._process.stdout.fileno(), 65536)
        assert data, "the process that forks has died"
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            pid, status = json.loads(line)
            if status is None:
                self._started.append(pid)
            else:
                self._ended[pid] = status


server = cache(Server)
"""One for each process of pytest."""


@dataclass
class Command:
    """A command that was started, with the parts of ``subprocess.Popen`` that tests need."""

    pid: int
    folder: Path
    """Where what it prints is kept."""

    @property
    def stdout(self) -> str:
        return self._said("stdout")

    @property
    def stderr(self) -> str:
        return self._said("stderr")

    def _said(self, name: str) -> str:
        path = self.folder / name  # the command makes it when it begins
        return path.read_text() if path.exists() else ""

    def poll(self) -> int | None:
        return server().ended(self.pid, 0)

    def wait(self, timeout: float) -> int:
        status = server().ended(self.pid, timeout)
        assert status is not None, f"it still runs after {timeout:g} s: {self.stdout[-2000:]}\n{self.stderr[-2000:]}"
        return status

    def kill(self) -> None:
        """End it and all that it started, hard."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait(60)


def start(*words: object, **environment: str) -> Command:
    """Start ``xfer WORDS`` in a session of its own, as in a terminal, with more environment variables.

    A run that it trains records few observations.
    """
    folder = Path(tempfile.mkdtemp(dir=server().folder.name))
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    everything = {**os.environ, **environment}
    request = {"words": [str(word) for word in words], "folder": str(folder), "environment": everything}
    return Command(server().fork(request), folder)


class PreloadedProcess(ForkServerProcess):
    """A process that has the environment variables of the moment, not those of when its server was started."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self._environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        super().run()


class PreloadedContext(ForkServerContext):
    """Forks from a server that has imported PyTorch already; there is one for each process of pytest."""

    Process = PreloadedProcess


class ForkedWorker:
    """A worker of a bench that starts at once, as the ``subprocess.Popen`` of a ``WorkerProcess``."""

    def __init__(self, words, *, stdin, stdout, stderr, env) -> None:
        (taken, given), (answered, answers) = os.pipe(), os.pipe()
        numbers = [taken, answers, stderr.fileno()]
        self._process = PreloadedContext().Process(target=_worker, args=(words, [Passed(n) for n in numbers], env))
        self._process.start()
        os.close(taken)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(given, "wb"), os.fdopen(answered, "rb")
        self.pid, self.kill = self._process.pid, self._process.kill

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout)
        return self._process.exitcode


class Passed(NamedTuple):
    """A file descriptor that is on its way to a process that is being started."""

    number: int

    def __reduce__(self):
        return _arrived, (DupFd(self.number),)


def _arrived(file) -> int:
    return file.detach()


def _worker(words: list[str], files: list[int], environment: dict[str, str]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.argv = os.fdopen(0), words[-2:]
    sys.exit(importlib.import_module(words[-2]).main())


def main() -> int:
    """Fork a command for each line of standard input; print ``[pid, null]``, and ``[pid, status]`` when it ended."""
    # Replies keep the pipe for themselves.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    children: set[int] = set()
    while True:
        if select.select([0], [], [], 0.01 if children else None)[0]:
            line = _line()
            if not line:
                return 0
            request = json.loads(line)
            if (pid := os.fork()) == 0:
                replies.close()
                return _command(request)
            children.add(pid)
            print(json.dumps([pid, None]), file=replies)
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.remove(pid)
                print(json.dumps([pid, os.waitstatus_to_exitcode(status)]), file=replies)


def _line() -> bytes:
    """Read one line, and nothing of the next one."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(0, 1)):
            break
        line += byte
    return line


def _command(request: dict) -> int:
    from tests import small_task
    from xfer import cli
    from xfer.training import rounds

    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, name in ((0, os.devnull), (1, f"{request['folder']}/stdout"), (2, f"{request['folder']}/stderr")):
        file = os.open(name, os.O_RDWR)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What it starts by multiprocessing must find the command as the main module, not this server.
    sys.modules["__main__"] = cli
    sys.argv = ["xfer", *request["words"]]
    rounds.RECORDED = small_task.FEW
    return cli.main(request["words"])


if __name__ == "__main__":
    sys.exit(main())
