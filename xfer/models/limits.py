"""Limits of options, written beside the fields of a configuration class, and the one function that checks them.

    rounds: Annotated[int, at_least(1)] = 10

A field is named in messages by its flag, ``--learning-rate`` for ``learning_rate``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from xfer.errors import UsageError, check_choice


@dataclass(frozen=True)
class Limits:
    """The smallest and the largest value of a number; infinities and NaN are never allowed."""

    low: float
    high: float = math.inf
    open: bool = False
    """Whether ``low`` itself is excluded."""

    def allow(self, value: float) -> bool:
        """Whether a value lies within."""
        return math.isfinite(value) and self.low <= value <= self.high and not (self.open and value == self.low)

    def __str__(self) -> str:
        """Say it as in "must be ..."."""
        if self.open:
            return f"greater than {self.low:g}"
        return f"at least {self.low:g}" if math.isinf(self.high) else f"between {self.low:g} and {self.high:.16g}"


def at_least(low: float) -> Limits:
    """Allow finite numbers from ``low`` on."""
    return Limits(low)


def above(low: float) -> Limits:
    """Allow finite numbers greater than ``low``."""
    return Limits(low, open=True)


def between(low: float, high: float) -> Limits:
    """Allow numbers from ``low`` to ``high``, both included."""
    return Limits(low, high)


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return f"--{name.replace('_', '-')}"


def check_limits(config: Any) -> None:
    """Refuse a configuration whose numbers are out of their limits, or whose choices do not exist.

    Args:
        config: A dataclass instance. Numbers have ``Limits`` in their annotation; a sequence is checked element by
            element, and None is allowed where the type allows it.

    Raises:
        UsageError: With the option's flag and what it must be.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        if not hasattr(config, name):
            continue
        value = getattr(config, name)
        for limits in (found for found in getattr(hint, "__metadata__", ()) if isinstance(found, Limits)):
            for number in value if isinstance(value, (tuple, list)) else (value,):
                if number is not None and not limits.allow(number):
                    raise UsageError(f"{flag(name)} must be {limits}, not {number}.")
        if get_origin(hint) is Literal and value not in get_args(hint):
            check_choice(f"value of {flag(name)}", str(value), map(str, get_args(hint)))
