"""``spec.json``: what `xfer export policy.onnx --spec` must be told of a graph, since the graph does not say it.

It is a ``PolicySpec`` as a manifest holds it, and ``graph``: what its tensors are called in the graph. `xfer spec`
writes a first one, in which a text that begins with a question mark asks for what only the author of the policy knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from xfer.errors import UsageError
from xfer.files import from_json
from xfer.spec import PolicySpec

ASKS = "?"
"""What a text begins with that asks for a value."""


@dataclass(frozen=True)
class Names:
    """What the tensors of a spec are called in the graph, where that is another name.

    Attributes:
        inputs: The graph's name of each observation and state.
        outputs: The graph's name of ``action``, ``scores`` and the next states (``STATE_out``).
    """

    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphSpec(PolicySpec):
    """A spec with the graph's own names.

    Attributes:
        graph: They.
    """

    graph: Names = field(default_factory=Names)

    @property
    def policy(self) -> PolicySpec:
        """The spec without them, with what the file left out: a default of the class is not written to a manifest."""
        plain = {one.name: getattr(self, one.name) for one in fields(PolicySpec)}
        tensors = {name: tuple(map(replace, plain[name])) for name in ("observations", "states")}
        return PolicySpec(**{**plain, **tensors, "action": replace(self.action)})


def read_spec(path: Path) -> GraphSpec:
    """Read a ``spec.json``.

    Raises:
        UsageError: If it is not there, still asks for something, or a field is missing, unknown or means nothing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--spec {path} cannot be read: {error.strerror}. xfer spec POLICY.onnx writes one."
        ) from error
    try:
        plain = msgspec.json.decode(data)
        if asked := list(questions(plain)):
            fields = ", ".join(dict.fromkeys(where for where, _ in asked))
            raise UsageError(f"{path} still asks for {fields}: {asked[0][1]}? Put values where a text begins with '?'.")
        spec = from_json(data, GraphSpec)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {str(error).rstrip('.')}.") from error
    if unknown := next(_unknown(plain, msgspec.to_builtins(spec)), ""):
        raise UsageError(f"{path}: there is no field `{unknown}`. Was it misspelt?")
    inputs, outputs = ({one.name for one in spec.inputs}, {*spec.output_names})
    for kind, names, due in (("inputs", spec.graph.inputs, inputs), ("outputs", spec.graph.outputs, outputs)):
        if others := sorted({*names} - due):
            raise UsageError(
                f"{path}: `graph.{kind}.{others[0]}` names no tensor of the spec, which has {', '.join(sorted(due))}."
            )
    return spec


def questions(plain: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield where a spec, as plain values, still asks for something, and what it asks for."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            if str(key).startswith(ASKS):
                yield where, str(key).removeprefix(ASKS).strip()
            yield from questions(value, f"{where}.{key}" if where else str(key))
    elif isinstance(plain, list):
        for index, value in enumerate(plain):
            yield from questions(value, f"{where}[{index}]")
    elif isinstance(plain, str) and plain.startswith(ASKS):
        yield where, plain.removeprefix(ASKS).strip()


def _unknown(given: Any, known: Any, where: str = "") -> Iterator[str]:
    """Yield the fields of plain values that are not among those that were understood."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            name = f"{where}.{key}" if where else str(key)
            yield from _unknown(value, known[key], name) if key in known else (name,)
    elif isinstance(given, list) and isinstance(known, list | tuple):
        for index, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from _unknown(one, other, f"{where}[{index}]")
