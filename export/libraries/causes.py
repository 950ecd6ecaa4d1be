"""Why a build failed, as one line: libraries say so in pages, with the cause somewhere inside them."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from itertools import dropwhile, takewhile
from pathlib import Path

from xfer.errors import XferError

LONGEST = 400
"""Characters of a cause; what is longer was written for the library's own developers."""
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_OURS = Path(__file__).resolve().parents[2]
_LIBRARIES = tuple(
    [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    + [str(_OURS / package) for package in ("xfer", "export", "benchmarks")]
)


def reason(error: BaseException) -> str:
    """Return what went wrong, and the line of the user's own code that it went wrong in.

    Args:
        error: What a library raised. Its ``__cause__``, and that one's, is where the fault began; an ``XferError`` says
            itself what is wrong.

    Example:
        >>> reason(ValueError("shape '[2, 2]' is invalid"))
        "ValueError: shape '[2, 2]' is invalid"
    """
    chain = [error]
    while chain[-1].__cause__ is not None and not isinstance(chain[-1], XferError):
        chain.append(chain[-1].__cause__)
    cause = chain[-1]
    if isinstance(cause, XferError):
        return " ".join(str(cause).split())
    name, text = type(cause).__name__, _cause(str(cause))
    text = text if text.startswith(f"{name}:") else f"{name}: {text}".rstrip(": ")
    places = [place for place in map(_place, reversed(chain)) if place]
    return f"{text} ({places[0]})" if places else text


def _cause(text: str) -> str:
    """Return the part of a message that says what is wrong, as one line without colors."""
    lines = [line.strip() for line in _COLOR.sub("", text).splitlines()]
    said = [line for line in lines if line]
    if not said:
        return ""
    if said[0].startswith("The following operation failed in the TorchScript interpreter"):
        chosen = said[-1:]  # of a traceback
    elif said[0].startswith("Exception from"):
        chosen = said[-1:]  # of OpenVINO, which goes from the outside to the inside
    elif errors := [line for line in said if re.search(r"\berror: ", line)]:
        chosen = errors[:1]  # of a compiler
    elif len(" ".join(said)) > LONGEST:
        chosen = list(takewhile(bool, dropwhile(lambda line: not line, lines)))  # the first paragraph
    else:
        chosen = said
    line = " ".join(" ".join(chosen).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rpartition(' ')[0]} ..."


def _place(error: BaseException) -> str:
    """Return the innermost line outside of libraries, as "policy.py:12, in forward: if x.sum() > 0:", or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed([*dropwhile(_is_outside, frames)]):  # whoever called is not at fault
        if _is_outside(frame):
            code = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{Path(frame.filename).name}:{frame.lineno}, in {frame.name}: {code}"
    return ""


def _is_outside(frame: traceback.FrameSummary) -> bool:
    path = Path(frame.filename).resolve()
    return path.is_file() and not str(path).startswith(_LIBRARIES)
