"""What can go wrong, as one small tree. The command line prints the message of any of these as one line.

XferError
├── UsageError            a name, option or value that does not exist or does not fit
├── WeightsError          a weights file that is missing, damaged, or of another architecture
├── RunError              a training run that is missing, incomplete, or of another configuration
├── BundleError           a bundle that is missing, edited, truncated, or of a newer schema
├── FidelityError         a policy that acts otherwise once exported, and why
├── UnavailableError      a target, provider or library that this machine lacks
├── ObservationError      an observation of the wrong name, shape or dtype, or one that is not finite
├── TaskError             an environment that fails, never ends, or gives what its task does not say
│   └── RewardError       a reward that is NaN or infinite
├── ScoresError           scores, actions or states that are none: the network's own, or a variant's arithmetic
├── ExecutionError        a runtime that gave up: out of memory, a kernel, a process that died
└── CheckFailed           a check that ran to its end, and found what it looked for
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class XferError(Exception):
    """Base of all errors that a user can fix; the message names the fix."""


class UsageError(XferError):
    """A name, option or value that does not exist or does not fit."""


class WeightsError(XferError):
    """A weights file that is missing, damaged, or of another architecture."""


class RunError(XferError):
    """A training run that is missing, incomplete, or of another configuration."""


class BundleError(XferError):
    """A bundle that is missing, edited, truncated, or of a newer schema."""


class FidelityError(XferError):
    """A policy that cannot be exported unchanged: it remembers, draws noise, or leaves a value in Python."""


class UnavailableError(XferError):
    """A target, provider or library that this machine lacks."""


class ObservationError(XferError):
    """An observation that does not match the spec, or is not finite where a policy can make nothing of that."""


class TaskError(XferError):
    """An environment that fails, never ends, or gives what its task does not say. No policy is to blame."""


class RewardError(TaskError):
    """A reward that is NaN or infinite."""


class ScoresError(XferError):
    """Scores, actions or next states that are not finite or not in range: they are never acted on."""


class ExecutionError(XferError):
    """A runtime that could not load a variant or finish a step: out of memory, a kernel, a process that died."""


class CheckFailed(XferError):  # noqa: N818 - nothing went wrong: this is an answer
    """A check that ran to its end, and found what it looked for: a regression, a claim that does not hold.

    Attributes:
        result: What ``--json`` prints all the same, for the program that wants to know more.
    """

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


def check_choice(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``choices``.

    Args:
        kind: What is being chosen, for the message: "task", "target" ...
        name: What the user wrote.
        choices: What exists.

    Raises:
        UsageError: With the closest existing name, or all of them.

    Example:
        >>> check_choice("target", "onix", ["eager", "onnx"])
        Traceback (most recent call last):
        xfer.errors.UsageError: Unknown target 'onix'. Did you mean 'onnx'? Choose from: eager, onnx.
    """
    known = sorted(choices)
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise UsageError(f"Unknown {kind} '{name}'.{hint} Choose from: {', '.join(known)}.")
