"""What an exception means: why a build failed, or why a variant did not run, as one line with a status.

Libraries say so in pages, with the cause somewhere inside them, and every failure of a GPU is a RuntimeError of theirs.
"""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Literal, NamedTuple

from xfer.errors import BundleError, ExecutionError, UnavailableError, XferError

LONGEST = 400
"""Characters of a cause; what is longer was written for the library's own developers."""
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_OURS = Path(__file__).resolve().parents[2]
_LIBRARIES = tuple(
    [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    + [str(_OURS / package) for package in ("xfer", "export", "benchmarks")]
)

_DEVICE: tuple[tuple[str, type[XferError], str], ...] = (
    (
        r"driver on your system is too old|driver version is insufficient|InsufficientDriver|SYSTEM_DRIVER_MISMATCH"
        r"|unsupported toolchain|UNSUPPORTED_PTX_VERSION|UnsupportedPtxVersion|CUDA (failure|error) (35|222|803)\b",
        UnavailableError,
        "NVIDIA's driver is too old for this library, update it",
    ),
    (
        r"no CUDA-capable device|cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE|Found no NVIDIA driver|not compiled with CUDA"
        r"|invalid device ordinal|CUDA (failure|error) (100|101)\b",
        UnavailableError,
        "there is no NVIDIA GPU that it can use",
    ),
    (
        r"no kernel image|NoKernelImageForDevice|NO_BINARY_FOR_GPU|CUDA (failure|error) 209\b",
        UnavailableError,
        "this library has no code for the GPU at hand",
    ),
    (
        r"out of memory|OutOfMemory|MemoryAllocation|OUT_OF_MEMORY|STATUS_ALLOC_FAILED|bad_alloc|can't allocate memory"
        r"|[Ff]ailed to allocate memory|CUDA (failure|error) 2\b",
        ExecutionError,
        "out of memory",
    ),
    (
        r"\bCUDA (error|failure)\b|\bcudaError|\bCUDA_ERROR|\bCUBLAS_STATUS|\bCUDNN_STATUS|illegal memory access",
        ExecutionError,
        "the GPU failed",
    ),
)
"""What runtimes write of a device and its memory: a pattern, what that is, and how it is said. The first counts."""


class Failure(NamedTuple):
    """What an exception says of the variant that was loaded or was acting.

    Attributes:
        status: ``built`` if this machine cannot run it, ``failed`` if its runtime gave up, ``rejected`` if its files or
            what it computes are not what they should be.
        reason: One line.
    """

    status: Literal["built", "failed", "rejected"]
    reason: str


def failure(error: BaseException) -> Failure:
    """Return what went wrong with a variant, and which status that is: every gate and every measurement asks here.

    Example:
        >>> failure(RuntimeError("CUDA error: out of memory"))
        Failure(status='failed', reason='out of memory: RuntimeError: CUDA error: out of memory')
    """
    ours = device_error(error) or error
    if isinstance(ours, UnavailableError):
        return Failure("built", reason(ours))
    gave_up = isinstance(ours, ExecutionError) or not isinstance(ours, XferError)
    return Failure("failed" if gave_up else "rejected", reason(ours))


def device_error(error: BaseException) -> XferError | None:
    """Return what a library's exception says of the device or of memory, or None if it is of something else.

    Returns:
        An ``UnavailableError`` without a GPU, or with one that the library or its driver cannot use; an
        ``ExecutionError`` if memory ran out or a kernel failed.
    """
    if isinstance(error, XferError):
        return None
    why = reason(error)
    if isinstance(error, MemoryError):
        return ExecutionError(f"out of memory: {why}")
    return device_message(f"{type(error).__name__}: {error} {why}", why)


def device_message(text: str, shown: str = "") -> XferError | None:
    """Return what a message says of the device or of memory, as ``device_error`` does.

    Args:
        text: All of it.
        shown: What is shown of it; by default all.
    """
    for pattern, kind, what in _DEVICE:
        if re.search(pattern, text):
            return kind(f"{what}: {shown or text}")
    return None


def not_loaded(error: Exception, otherwise: str) -> XferError:
    """Return why a library does not load a file: the device or memory, or else the file, as ``otherwise`` says."""
    return device_error(error) or BundleError(otherwise)


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
