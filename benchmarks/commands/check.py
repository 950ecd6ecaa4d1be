"""What ``xfer bench --check`` does: say what about this machine moves latencies, and the command that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.commands import bench_options
from benchmarks.measure import conditions
from benchmarks.measure.conditions import Condition
from benchmarks.measure.protocol import Candidate
from export import targets
from export.commands.console import command_lines, show, wrapped
from export.libraries import linux
from xfer.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from benchmarks.commands.bench_options import Args


def main(args: Args) -> dict[str, Any]:
    """Look, and return what ``--json`` prints.

    Raises:
        UsageError: On threads or cores that do not fit, or another machine.
        UnavailableError: If this is not Linux.
        CheckFailed: If something that was asked for cannot be had here.
    """
    linux.require("xfer bench")
    if args.host is not None:
        there = f"ssh {args.host} {args.remote_xfer} bench --check"
        raise UsageError(f"--check looks at the machine that it runs on: {there}")
    protocol = bench_options.protocol_of(args)
    asked = [Candidate(str(variant), Path(), str(variant)) for variant in targets.expand(args.variants)]
    found = conditions.check(protocol.bound, protocol.threads, on_gpu=any(one.on_gpu for one in asked))
    show(lines(found))
    result = {"conditions": msgspec.to_builtins(found)}
    if impossible := [condition for condition in found if condition.state == "impossible"]:
        raise CheckFailed("; ".join(f"{one.name}: {one.found}" for one in impossible), result)
    return result


def lines(found: Sequence[Condition]) -> list[str]:
    """Return a table of conditions, and below it the commands that mend them."""
    states, names = max(len(one.state) for one in found), max(len(one.name) for one in found)
    table = []
    for one in found:
        table += wrapped(one.found, f"{one.state:<{states}}  {one.name:<{names}}  ", " " * (states + names + 4))
    if any(one.mend for one in found):
        table += ["", "To mend them:"]
    for one in found:
        table += [f"  {one.name}", *command_lines(one.mend, "    ")] if one.mend else []
    return table
