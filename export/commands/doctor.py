"""What `xfer doctor` does: say which targets work here, and what to install for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from export import targets
from export.bundle.machine import this_machine
from xfer.commands import Common


@dataclass(kw_only=True)
class Args(Common):
    """Say, for each target, whether it can be built and run on this machine, and what to install if not.

    A target that runs at several places, as onnx@cuda, has a line for each.

    Example commands:
      xfer doctor
    """


def main(args: Args) -> dict[str, Any]:
    """Look, and return the object that ``--json`` prints."""
    from rich.console import Console
    from rich.table import Table

    machine = this_machine()
    table = Table(title=f"{machine.processor}, {machine.cores} cores, {machine.gpu or 'no GPU'}")
    for column in ("target", "precisions", "export", "run here"):
        table.add_column(column)
    rows = []
    for name in targets.names():
        module = targets.load(name)
        cannot_export = module.available()
        places = {place: module.runnable(place) for place in ("", *module.PLACES)}
        reason = "; ".join(dict.fromkeys(filter(None, (cannot_export, places[""]))))
        _, _, install = reason.partition("pip install ")
        table.add_row(name, ", ".join(module.PRECISIONS), _mark(cannot_export), _mark(places[""]))
        for place in module.PLACES:
            table.add_row(f"  @{place}", "", "", _mark(places[place]))
        rows.append(
            {
                "target": name,
                "available": cannot_export is None,
                "runnable": places[""] is None,
                "reason": reason,
                "install": f"pip install {install.split(';')[0]}" if install else "",
                "run": {place: why_not or "" for place, why_not in places.items()},
            }
        )
    Console().print(table)
    return {"targets": rows, "machine": msgspec.to_builtins(machine)}


def _mark(reason: str | None) -> str:
    from rich.markup import escape

    return "[green]yes[/]" if reason is None else f"[yellow]no:[/] {escape(reason)}"
