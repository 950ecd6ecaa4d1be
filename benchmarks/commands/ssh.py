"""Another machine, by the system's own ssh and rsync.

Aliases, keys and jump hosts of the user's ssh configuration hold. Other options for ssh go into the environment
variable ``XFER_SSH``, as ``XFER_SSH="ssh -F file"``. Nothing asks for a password, and a dead connection is noticed
within half a minute.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from xfer.errors import UnavailableError, UsageError, XferError

OPTIONS = (
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=10"),
    *("-o", "ServerAliveCountMax=2"),
)

CONNECTION_FAILED, NOT_FOUND = 255, 127
"""Exit statuses: of ssh itself, and of a shell that does not find a command."""

# A command without a terminal gets no hang-up: what ends it is the end of its input, which comes with the end of the
# connection, and then a signal that cannot be ignored. The shell stays in front of it, or ssh could not tell a killed
# command from a lost connection.
ENDS_WITH_CONNECTION = (
    'exec 3<&0; "$@" </dev/null 3<&- & command=$!; '
    "{ read -r _ <&3; kill $command; sleep 10; kill -9 $command; } >/dev/null 2>&1 & watch=$!; "
    "exec 3<&-; wait $command; status=$?; kill $watch 2>/dev/null; exit $status"
)


class LostError(XferError):
    """The connection ended before the work was done."""


@dataclass(frozen=True)
class Host:
    """A machine that ssh reaches.

    Args:
        name: Alias, HOST or USER@HOST.

    Raises:
        UsageError: If that is no such name.
        UnavailableError: If ssh or rsync is missing here.
    """

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.@][\w.@-]*", self.name):
            raise UsageError(f"--host '{self.name}' is no USER@HOST. Ports and the like belong in ~/.ssh/config.")
        missing = [tool for tool in (self.ssh[0], "rsync") if shutil.which(tool) is None]
        if missing:
            names = " and ".join(missing)
            raise UnavailableError(f"{names} is not installed here: sudo apt install openssh-client rsync")

    @property
    def ssh(self) -> list[str]:
        """The ssh command up to the name of the host. Of an option that is given twice, ssh takes the first."""
        return [*shlex.split(os.environ.get("XFER_SSH") or "ssh"), *OPTIONS]

    def words(self, script: str, *arguments: str) -> list[str]:
        """Return the command that runs a POSIX shell script there, whatever the user's login shell is."""
        return [*self.ssh, self.name, shlex.join(["sh", "-c", script, "sh", *arguments])]

    def ask(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a short script there, and return its output and status.

        Raises:
            XferError: If the machine cannot be reached, with what ssh says.
        """
        words = self.words(script, *arguments)
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", errors="replace"
        )
        if done.returncode == CONNECTION_FAILED:
            reason = last_line(done.stderr)
            raise XferError(f"Cannot reach {self.name}: {reason} (`ssh {self.name}` must work without a password)")
        return done

    def rsync(self, *words: str) -> None:
        """Run rsync; a path ``HOST:PATH`` is relative to the user's home.

        Raises:
            LostError: If the connection ended, with the first thing that rsync or ssh says.
            XferError: If anything else failed, likewise.
        """
        command = ["rsync", "-rlt", "-e", shlex.join(self.ssh), *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", errors="replace"
        )
        if done.returncode:
            first = next(iter(done.stderr.splitlines()), f"rsync ended with status {done.returncode}")
            kind = LostError if done.returncode == CONNECTION_FAILED else XferError
            raise kind(f"copying to or from {self.name} failed: {first}")

    def stream(self, command: list[str], take: Callable[[bytes], None]) -> None:
        """Run a long command there that ends with the connection, and pass its stderr on.

        Args:
            command: Its words.
            take: Is given every line of its stdout.

        Raises:
            LostError: If the connection ended before the command did.
            XferError: If the command failed, with its last words.
        """
        pipe, said = subprocess.PIPE, [""]
        words = self.words(ENDS_WITH_CONNECTION, *command)
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            assert process.stdout is not None
            echo = threading.Thread(target=_echo, args=(process.stderr, said), daemon=True)
            echo.start()
            try:
                for line in process.stdout:
                    take(line)
            except BaseException:
                process.terminate()
                raise
            finally:
                echo.join()
        status, last = process.returncode, said[-1].removeprefix("xfer: ")
        if status == CONNECTION_FAILED:
            raise LostError(last)
        if status > 128:
            raise XferError(f"killed there by {signal.Signals(status - 128).name}")
        if status:
            raise XferError(last or f"status {status}")


def last_line(text: str) -> str:
    """Return the last line that is not empty, or an empty string."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _echo(pipe: IO[bytes], said: list[str]) -> None:
    for line in pipe:
        if text := line.decode(errors="replace").rstrip():
            said.append(text)
            print(text, file=sys.stderr, flush=True)
