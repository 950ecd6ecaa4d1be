"""What `xfer doctor` does: say which targets work here, and what to install for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from export import targets
from export.bundle.machine import Machine, this_machine
from export.commands.console import Advice, advice, command_lines, show, wrapped, wrapped_row
from export.libraries.causes import failure
from export.libraries.terminal import quiet
from export.targets import Target, TriedOut
from xfer.commands import Common


@dataclass(kw_only=True)
class Args(Common):
    """Say which targets can be exported and run here, and what others need.

    Behind an @ stands an execution provider or a device, as in onnx@cuda.

    Example commands:
      xfer doctor
    """


@dataclass(frozen=True)
class State:
    """What one target can do on this machine.

    Attributes:
        target: Its name.
        export: None if it can be exported here, else why not.
        run: The same for running it: by the name behind the @, empty for its default.
    """

    target: str
    export: str | None
    run: dict[str, str | None]


def main(args: Args) -> dict[str, Any]:
    """Look, and return the object that ``--json`` prints."""
    machine, states = this_machine(), look()
    show(doctor_lines(machine, states))
    return {"targets": [as_row(state) for state in states], "machine": msgspec.to_builtins(machine)}


def look() -> list[State]:
    """Ask every target."""
    modules = {name: targets.load(name) for name in targets.names()}
    return [
        State(name, _asked(module.available), {place: _run(module, place) for place in ("", *module.PLACES)})
        for name, module in modules.items()
    ]


def _run(module: Target, place: str) -> str | None:
    """Return why a target does not run there: that a library is installed does not mean that it works here."""
    why_not = _asked(module.runnable, place)
    if why_not is None and hasattr(module, "try_out"):
        return _asked(cast(TriedOut, module).try_out, place)
    return why_not


def _asked(question: Callable[..., str | None], *place: str) -> str | None:
    """Return a target's answer; a library that is installed, but broken, may raise anything when it is imported."""
    try:
        with quiet():
            return question(*place)
    except Exception as error:
        return failure(error).reason


def as_row(state: State) -> dict[str, Any]:
    """Return one target as ``--json`` prints it."""
    reason = "; ".join(dict.fromkeys(filter(None, (state.export, state.run[""]))))
    install = [one.command for one in dict.fromkeys(advice(reason)) if one.command.startswith("pip ")]
    return {
        "target": state.target,
        "available": state.export is None,
        "runnable": state.run[""] is None,
        "reason": reason,
        "install": " && ".join(install),
        "run": {place: reason or "" for place, reason in state.run.items()},
    }


def doctor_lines(machine: Machine, states: Sequence[State]) -> list[str]:
    """Return a table of yes and no, and below it each missing thing once, with its command."""
    lines = [*wrapped(f"{machine.processor}, {machine.cores} cores, {machine.gpu or 'no GPU'}"), ""]
    width = max(len("target"), *(len(state.target) for state in states))
    lines.append(f"{'target':<{width}}  export  run  run with")
    for state in states:
        others = ", ".join(f"@{place} {_mark(why_not)}" for place, why_not in state.run.items() if place)
        row = f"{state.target:<{width}}  {_mark(state.export):<6}  {_mark(state.run['']):<3}  {others}"
        lines += wrapped_row(row.rstrip())
    needed = missing(states)
    if needed:
        lines += ["", "Missing here:"]
    for thing, what_for in needed.items():
        lines += wrapped(thing.what, "  ", "    ")
        lines += wrapped(f"needed to {what_for}", "    ", "      ")
        lines += command_lines(thing.command, "      ") if thing.command else []
    return lines


def missing(states: Sequence[State]) -> dict[Advice, str]:
    """Return each missing thing, and what it is needed for: "export tensorrt, and to run onnx@cuda"."""
    exports: dict[Advice, list[str]] = {}
    runs: dict[Advice, list[str]] = {}
    for state in states:
        for thing in advice(state.export or ""):
            exports.setdefault(thing, []).append(state.target)
        for place, why_not in state.run.items():
            for thing in advice(why_not or ""):
                runs.setdefault(thing, []).append(f"{state.target}@{place}" if place else state.target)
    return {
        thing: ", and to ".join(
            f"{verb} {', '.join(uses[thing])}" for verb, uses in (("export", exports), ("run", runs)) if thing in uses
        )
        for thing in dict.fromkeys([*exports, *runs])
    }


def _mark(why_not: str | None) -> str:
    return "yes" if why_not is None else "no"
