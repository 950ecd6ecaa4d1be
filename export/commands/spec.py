"""What `xfer spec` does: write a first spec.json for an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from export.commands.console import command_lines, show, wrapped
from xfer.commands import Common
from xfer.errors import UsageError
from xfer.files import to_json, writable, write_atomically


@dataclass(kw_only=True)
class Args(Common):
    """Write a first spec.json for an ONNX graph, from its inputs and outputs.

    What the graph does not say (the rate, names and bounds of the action ...) is asked for in it.

    Fill that in, and give the file to `xfer export --spec`.

    Example commands:
      xfer spec policy.onnx
      xfer spec policy.onnx --output walk.json
    """

    graph: Annotated[Path, tyro.conf.Positional]
    """The .onnx file."""
    output: Annotated[Path, tyro.conf.arg(metavar="PATH")] = Path("spec.json")
    """The file to write."""


def main(args: Args) -> dict[str, Any]:
    """Write the file, and return the object that ``--json`` prints.

    Raises:
        UsageError: If the file is there already, or no policy can be made of the graph.
        WeightsError: If the graph cannot be read.
    """
    from export.importers._onnx_draft import draft
    from export.importers._onnx_given import Given
    from export.importers._onnx_spec import questions

    given = Given(args.graph)
    try:
        first = draft(given)
    except UsageError as error:
        raise UsageError(f"{args.graph}: {error}") from error
    if args.output.exists():
        raise UsageError(f"{args.output} exists. Name another file with --output, or delete it.")
    with writable(args.output, UsageError):
        write_atomically(args.output, to_json(first))
    asks = [{"field": field, "question": question} for field, question in questions(first)]
    show([*wrapped(f"takes  {given.listed(given.inputs)}", "", "       ")])
    show([*wrapped(f"gives  {given.listed(given.outputs)}", "", "       ")])
    show(["", f"{args.output} asks for"])
    for ask in asks:
        show(wrapped(f"{ask['field']}: {ask['question']}", "  ", "    "))
    show(["Fill that in. Next:", *command_lines(f"xfer export {args.graph} --spec {args.output}", "  ")])
    return {"spec": str(args.output), "asks": asks}
