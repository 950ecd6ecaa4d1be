"""`xfer`: one command a stage of the way. Commands are strings here, and imported when they are chosen."""

from __future__ import annotations

import _thread
import codecs
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from xfer import user_code
from xfer.errors import CheckFailed, UsageError, XferError, check_choice

COMMANDS = {
    "train": ("xfer.commands.train", "fine-tune a pretrained network on a task"),
    "record": ("xfer.commands.record", "write what an expert or a policy does as a Minari dataset"),
    "export": ("export.commands.export", "make a bundle of a policy"),
    "spec": ("export.commands.spec", "write a first spec.json for an ONNX graph"),
    "verify": ("export.commands.verify", "prove that each variant acts as the policy itself does"),
    "bench": ("benchmarks.commands.bench", "measure latency against the policy itself, and write a report"),
    "compare": ("benchmarks.commands.compare", "say which variants became faster or slower between two reports"),
    "recommend": ("benchmarks.commands.recommend", "name the fastest variant that is proven not to act worse"),
    "pack": ("export.commands.pack", "make the smallest bundle that ships one variant"),
    "run": ("export.commands.run", "drive the environment with one variant"),
    "cmake-dir": ("export.commands.cmake_dir", "say where CMake finds the C++ runtime"),
    "doctor": ("export.commands.doctor", "say which targets work here, and what to install"),
    "reproduce": ("benchmarks.commands.reproduce", "repeat the simulations and measurements behind a figure"),
    "demo": ("benchmarks.commands.demo", "all of it on CartPole, in minutes"),
}
"""Name -> module and what it is for."""

EXAMPLES = """\
examples:
  xfer train cartpole --weights none --output runs/cartpole
  xfer export runs/cartpole --targets eager,torchscript,onnx
  xfer verify runs/cartpole.bundle
  xfer bench runs/cartpole.bundle --quick
  xfer recommend runs/cartpole.bundle --deadline-ms 20
  xfer run runs/cartpole.bundle --variant onnx-int8 --episodes 3"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; an error is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    _print_anything()
    user_code.look_here_last()
    signal.signal(signal.SIGTERM, _interrupt)
    with _interrupts_that_last():
        return _main(words)


def _main(words: list[str]) -> int:
    try:
        if not words or words[0] in ("-h", "--help"):
            print(help_text())
            return 0
        if words[0] in ("-V", "--version"):
            from xfer import __version__

            print(f"xfer {__version__}")
            return 0
        return run(check_choice("command", words[0], COMMANDS), words[1:])
    except XferError as error:
        if "--debug" in words:
            raise
        print(f"xfer: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # `xfer ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if "--debug" in words:
            raise
        print(f"xfer: {_unexpected(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if "--debug" in words:
            raise
        print("xfer: interrupted; nothing was left half-written", file=sys.stderr)
        return 130


def run(command: str, words: list[str]) -> int:
    """Parse a command's arguments and run it."""
    from xfer.commands import read_arguments

    module = importlib.import_module(COMMANDS[command][0])
    args = module.parse(words) if hasattr(module, "parse") else read_arguments(module.Args, command, words)
    try:
        result = module.main(args)
    except CheckFailed as failed:
        if args.json:
            print(json.dumps(failed.result))
        raise
    if args.json:
        print(json.dumps(result))
    return 0


def help_text() -> str:
    """Return what ``xfer --help`` prints."""
    rows = "\n".join(f"  {name:<10} {purpose}" for name, (_, purpose) in COMMANDS.items())
    return f"usage: xfer COMMAND [--help] [--json] [--debug] ...\n\ncommands:\n{rows}\n\n{EXAMPLES}"


def _unexpected(error: Exception) -> str:
    """Return one line about an error that is none of ours: what it is, and the line of code that raised it."""
    import traceback

    *_, frame = traceback.extract_tb(error.__traceback__)
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return f"{text} ({Path(frame.filename).name}:{frame.lineno}, in {frame.name}; --debug shows the traceback)"


PLAIN = {
    **dict.fromkeys(map(chr, range(0x2500, 0x2580)), "+"),  # what tables and boxes are drawn with
    **dict.fromkeys("─━╴╶╸╺═\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}", "-"),
    **dict.fromkeys("│┃║", "|"),
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{GREEK CAPITAL LETTER DELTA}": "d",
}
"""What a terminal prints that has no such character: one for one, so that tables keep their columns."""


def _print_anything() -> None:
    """Let standard output and error print any text in whatever encoding the terminal has, as latin-1 or ASCII."""
    from unicodedata import normalize

    def plainer(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        missing = error.object[error.start : error.end]
        bare = (normalize("NFKD", c).encode("ascii", "ignore").decode()[:1] for c in missing)  # e of é
        return "".join(PLAIN.get(c) or b or "?" for c, b in zip(missing, bare, strict=True)), error.end

    codecs.register_error("xfer.plainer", plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a program that calls this may have put something else there
            stream.reconfigure(errors="xfer.plainer")


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def _interrupts_that_last() -> Iterator[None]:
    """Send an interrupt once more where Python ignores it: in a destructor, or a weak reference's callback."""
    usual = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(0.01, _thread.interrupt_main).start()  # from outside, when the callback is over
        else:
            usual(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual


if __name__ == "__main__":
    sys.exit(main())
