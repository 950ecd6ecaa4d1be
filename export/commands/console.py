"""What commands print: lines of plain text, made from data, none longer than 80 columns.

A command that is to be copied has lines of its own. It is never cut; one that is too long continues after a backslash.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from export.bundle.manifest import Build
from export.bundle.record import Verification

if TYPE_CHECKING:
    from export.verification.fault_injection.inject import FaultInjection, Finding
    from export.verification.repair.bundle import Repaired
    from export.verification.repair.search import Repair

WIDTH = 80

COLORS = {
    "built": "green",
    "verified": "green",
    "provisional": "yellow",
    "unavailable": "yellow",
    "rejected": "red",
    "failed": "red",
    "nothing": "red",
    "good": "green",
    "mend": "yellow",
    "impossible": "red",
}
"""Of the words that a line may begin with."""

_COMMAND = re.compile(r": ((?:pip|apt-get|conda|uv) .+)$")


class Advice(NamedTuple):
    """What is missing or went wrong, and the command that mends it, or an empty string."""

    what: str
    command: str


def show(lines: Iterable[str]) -> None:
    """Print lines as they are; on a terminal, a status at a line's beginning has its color."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        text = Text(line)
        if (color := COLORS.get(line.strip().partition(" ")[0])) is not None:
            text.highlight_regex(r"^ *\w+", color)
        console.print(text, soft_wrap=True)


def wrapped(text: str, indent: str = "", hanging: str | None = None) -> list[str]:
    """Return text as lines, the first behind ``indent`` and the others behind ``hanging`` (default: the same)."""
    later = indent if hanging is None else hanging
    wrapper = textwrap.TextWrapper(
        WIDTH, initial_indent=indent, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.wrap(text)


def command_lines(command: str, indent: str = "    ") -> list[str]:
    """Return a shell command as lines that can be copied together.

    Example:
        >>> command_lines("pip install x")
        ['    pip install x']
    """
    if len(indent + command) <= WIDTH:
        return [indent + command]
    words = re.findall(r"(?:'[^']*'|\"[^\"]*\"|\S)+", command)
    lines, line = [], indent + words[0]
    for before, word in itertools.pairwise(words):
        if before == "&&" or len(f"{line} {word} \\") > WIDTH:
            lines.append(f"{line} \\")
            line = f"{indent}  {word}"
        else:
            line = f"{line} {word}"
    return [*lines, line]


def advice(reason: str) -> list[Advice]:
    """Split a reason, as targets give it, into what is missing and the commands that bring it.

    Example:
        >>> advice("X is not installed: pip install x; Y needs a GPU")
        [Advice(what='X is not installed', command='pip install x'), Advice(what='Y needs a GPU', command='')]
    """
    found: list[Advice] = []
    for part in filter(None, reason.split("; ")):
        if (match := _COMMAND.search(part)) is not None:
            found.append(Advice(part[: match.start()], match[1]))
        elif found and not found[-1].command:
            found[-1] = Advice(f"{found[-1].what}; {part}", "")
        else:
            found.append(Advice(part, ""))
    return found


def reason_lines(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """Return reasons, each said once, under the names of the variants that share it.

    Args:
        reasons: (variant, reason) pairs; an empty reason is left out.
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        if reason:
            names.setdefault(reason, []).append(name)
    lines = []
    for reason, sharing in names.items():
        lines += wrapped(", ".join(sharing), "  ")
        for what, command in advice(reason):
            lines += wrapped(f"{what}:" if command else what, "    ", "      ")
            lines += command_lines(command, "      ") if command else []
    return lines


# Verdicts.


def verdict_lines(found: Mapping[str, Verification]) -> list[str]:
    """Return a table of verdicts, a line a variant, and below it the reasons."""
    rows = [("status", "variant", "score Δ", "agree", "regret", "reward Δ", "pairs")]
    for name, v in found.items():
        figures = (_number(v.max_abs_diff), _percent(v.agreement), _number(v.regret), _reward(v))
        rows.append((v.status, name, *figures, str(v.pairs) if v.pairs else ""))
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    if len(_row([max(column, key=len) for column in columns], columns, " ")) > WIDTH:
        columns = [column for column in columns if column[0] != "score Δ"]
    gap = "  " if len(_row([max(column, key=len) for column in columns], columns, "  ")) <= WIDTH else " "
    lines = [line for row in zip(*columns, strict=True) for line in wrapped_row(_row(row, columns, gap))]
    reasons = reason_lines((name, v.reason) for name, v in found.items())
    return [*lines, "", *reasons] if reasons else lines


def _row(cells: Sequence[str], columns: Sequence[Sequence[str]], gap: str) -> str:
    """Return cells under one another: status and variant to the left, figures to the right, ``gap`` between them."""
    padded = [
        cell.ljust(max(map(len, column))) if column in columns[:2] else cell.rjust(max(map(len, column)))
        for cell, column in zip(cells, columns, strict=True)
    ]
    return "  ".join([*padded[:2], gap.join(padded[2:])]).rstrip()


def wrapped_row(row: str) -> list[str]:
    """Return a table's row as it is; if it is too long, its last cells on a line of their own."""
    if len(row) <= WIDTH:
        return [row]
    cut = row.rindex("  ", 0, WIDTH)
    return [row[:cut].rstrip(), *wrapped(row[cut:].strip(), "    ")]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _reward(v: Verification) -> str:
    if v.reward_interval is None:
        return ""
    low, high = v.reward_interval
    return f"{v.reward_delta:+.2f} [{low:+.1f}, {high:+.1f}]"


# Builds.


def build_row(build: Build, cached: bool) -> dict[str, Any]:
    """Return one build as ``--json`` prints it."""
    return {
        "variant": build.variant,
        "status": build.status,
        "reason": build.reason,
        "seconds": round(build.seconds, 2),
        "size_bytes": build.size_bytes,
        "cached": cached,
    }


def build_lines(build: Build, cached: bool) -> list[str]:
    """Return a line about a build; why one was not built is said once below all of them, by ``reason_lines``."""
    if build.status != "built":
        return wrapped(f"{build.status:<11}  {build.variant}")
    how = "unchanged" if cached else f"{build.seconds:.1f} s"
    line = f"{build.status:<11}  {build.variant:<16}  {build.size_bytes / 1e6:6.1f} MB, {how}"
    return [line, *wrapped(build.notes, " " * 13)]


def next_lines(bundle: str, *commands: str) -> list[str]:
    """Return where the bundle is, and the commands that come next."""
    return [f"{bundle}  Next:", *(line for command in commands for line in command_lines(f"{command} {bundle}", "  "))]


# Repairs.


def repair_row(repaired: Repaired) -> dict[str, Any]:
    """Return what ``--json`` prints of an int8 variant that was, or could have been, repaired."""
    build, after, found = repaired.build, repaired.after, repaired.repair
    assert repaired.before is not None
    assert after is not None
    row: dict[str, Any] = {
        "variant": build.variant,
        "status": after.status,
        "reason": after.reason,
        "regret": after.regret,
        "float_layers": list(build.options.get("float_layers", ())),
    }
    if found is not None:
        row |= {"layers": found.layers, "drift": found.drift, "regret_before": _regret_before(repaired.before, found)}
        row |= {"before_ms": found.before_ms, "after_ms": found.after_ms}
    return row


def _regret_before(before: Verification, found: Repair) -> float | None:
    """Return the regret that the verdict had; one that ended before the actions gate has that of the search."""
    return found.before.regret if before.regret is None else before.regret


def repair_lines(repaired: Repaired) -> list[str]:
    """Return what became of an int8 variant: what stays in float, and what that costs."""
    name, found = repaired.build.variant, repaired.repair
    if repaired.impossible or repaired.before is None or repaired.after is None:
        return ["not repaired", *reason_lines([(name, repaired.impossible)])]
    if found is None:
        return verdict_lines({name: repaired.after})
    lines = verdict_lines({name: repaired.before})
    if found.drift is None:
        return [*lines, *wrapped(f"{name} stays as it was: all {found.layers} layers in float are not enough.", "  ")]
    kept = f"{name}: {len(found.drift)} of {found.layers} layers stay in float, and none of them can go back to int8"
    lines += wrapped(kept, "  ", "    ")
    for layer, drift in found.drift.items():
        lines += wrapped(f"{layer}: alone in int8, scores drift by {drift:.2%}", "    ", "      ")
    cost = (
        f"mean regret {_number(_regret_before(repaired.before, found))} -> {repaired.after.regret:.2g};"
        f" about {found.before_ms:.2f} ms -> {found.after_ms:.2f} ms a call on one thread"
    )
    return [*lines, *wrapped(cost, "    ", "      "), *verdict_lines({name: repaired.after})]


# Fault injection.


def finding_lines(finding: Finding) -> list[str]:
    """Return which gate caught a fault, how the fault happens, and what the gate said."""
    caught = finding.caught_by or ("nothing" if finding.tested else "not tested")
    seconds = f"{finding.seconds:.1f} s" if finding.tested else ""
    line = f"{caught:<11}  {finding.mistake:<{WIDTH - 13 - len(seconds)}}{seconds}".rstrip()
    return [line, *wrapped(finding.what, " " * 13), *wrapped(finding.detail, " " * 13)]


def fault_summary(result: FaultInjection) -> str:
    """Return how many faults were caught, and which were not."""
    tested = [finding for finding in result.findings if finding.tested]
    parts = [f"{len(tested) - len(result.let_through)} of {len(tested)} faults caught"]
    if untested := len(result.findings) - len(tested):
        parts.append(f"{untested} could not be tested here")
    if result.let_through:
        parts.append(f"let through: {', '.join(result.let_through)}")
    if result.rejected:
        parts.append(f"untouched, but rejected: {', '.join(result.rejected)}")
    else:
        parts.append("the untouched bundle is not rejected")
    return "; ".join(parts)
