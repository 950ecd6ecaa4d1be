"""A first ``spec.json`` of a graph: what its inputs and outputs say, and questions for the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from export.importers._onnx_given import FLOATS, FREE, Given, Port
from export.importers._onnx_layout import spec_type, without
from export.importers._onnx_spec import ASKS
from xfer.errors import UsageError
from xfer.spec import STATE_SUFFIX

MARKS = {"in", "out", "input", "output", "next", "new", "prev", "previous", "old"}
"""Parts of a name by which a state that goes in differs from the one that comes out."""
ACTIONS = ("action", "deterministic_continuous_actions", "deterministic_discrete_actions", "actions")
"""What an output is called that is the action, the likelier first: ML-Agents has others that are drawn at random."""
SCORES = {"scores": "values", "logits": "logits", "q_values": "values", "qvalues": "values"}
"""What an output is called that a discrete action is chosen from, and which kind of scores that is."""


def draft(given: Given) -> dict[str, Any]:
    """Return a first spec, as plain values. A text that begins with a question mark asks for a value.

    Raises:
        UsageError: If an input cannot be a policy's: its type, or dimensions that are free besides the batch.
    """
    pairs = _states(given)
    states = {_state_name(port): (port, after) for port, after in pairs}
    seen = [port for port in given.inputs if all(port is not before for before, _ in pairs)]
    left = [port for port in given.outputs if all(port is not after for _, after in pairs)]
    action, scores = _decided(left)
    one = action or scores
    others = [
        f"{ASKS} is the output {out.name} the next value of the input {port.name}? Then it is a state: move it here"
        f" from observations, and name the output in graph.outputs as {port.name}{STATE_SUFFIX}. If not, delete this"
        " line."
        for port in seen
        for out in left
        if out is not one and port.dims is not None and (out.dtype, out.dims) == (port.dtype, port.dims)
    ]
    inputs = {name: before.name for name, (before, _) in states.items() if name != before.name}
    outputs = {name + STATE_SUFFIX: after.name for name, (_, after) in states.items()}
    if action is not None:
        outputs["action"] = action.name
    elif scores is None:
        outputs["action"] = f"{ASKS} which output is the action: {given.listed(left)}"
    if scores is not None:
        outputs["scores"] = scores.name
    kind = "discrete" if scores or (action and action.dtype not in FLOATS) else ""
    return {
        "task": "",
        "control_hz": f"{ASKS} the rate at which it acts, in Hz",
        "observations": [_described(port.name, port) for port in seen],
        "states": [*(_described(name, before) for name, (before, _) in states.items()), *others],
        "action": _action(kind, one),
        "score_kind": (SCORES[_plain(scores.name)] if scores else "values") if kind else _score_kind(),
        "graph": {"inputs": inputs, "outputs": outputs},
    }


def _action(kind: str, port: Port | None) -> dict[str, Any]:
    what = "action" if kind else "element"
    sizes = (port.dims or ())[1:] if port is not None and port.dtype in FLOATS else ()
    indices = range(max(sizes[-1], 1)) if sizes else range(2)
    found: dict[str, Any] = {
        "kind": kind or f"{ASKS} continuous or discrete",
        "elements": [f"{ASKS} name of {what} {index}" for index in indices],
    }
    if kind:
        return found
    none = "[] if it has none, or is discrete"
    bounds = {"low": f"{ASKS} lower bounds, one an element: {none}", "high": f"{ASKS} upper bounds, likewise"}
    return {**found, "unit": f"{ASKS} unit of its elements, as rad or N m; may be empty", **bounds}


def _score_kind() -> str:
    return f"{ASKS} mean if it is continuous; logits or values if it is discrete"


def _decided(left: Sequence[Port]) -> tuple[Port | None, Port | None]:
    """Return the output that is the action and the one that is the scores, as far as their names say so."""
    scores = next((port for port in left if _plain(port.name) in SCORES), None)
    named = [port for name in ACTIONS for port in left if _plain(port.name) == name]
    if named:
        return named[0], scores
    others = [port for port in left if port is not scores]
    return (others[0], None) if len(others) == 1 and scores is None else (None, scores)


def _states(given: Given) -> list[tuple[Port, Port]]:
    """Return inputs that an output hands on to the next step, by their names: h_in and h_out."""
    outputs = {key: port for port in reversed(given.outputs) if (key := _key(port.name))}
    pairs = ((port, outputs.get(_key(port.name))) for port in given.inputs)
    return [
        (port, after) for port, after in pairs if after is not None and port.dtype in FLOATS and _alike(port, after)
    ]


def _alike(port: Port, after: Port) -> bool:
    if port.dims is None or after.dims is None:
        return True
    sizes = zip(port.dims, after.dims, strict=False)
    return len(port.dims) == len(after.dims) and all(FREE in pair or pair[0] == pair[1] for pair in sizes)


def _key(name: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[^a-z0-9]+", name.lower()) if part and part not in MARKS)


def _state_name(port: Port) -> str:
    return "_".join(_key(port.name))


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _described(name: str, port: Port) -> dict[str, Any]:
    """Return an input as an observation or a state of a spec."""
    dtype = spec_type(port.dtype)
    if not dtype:
        raise UsageError(f"the graph's input {port} is of a type that no observation has. Export it as a number.")
    if len(port.free) > 1:
        raise UsageError(
            f"the graph's input {port} has {len(port.free)} free dimensions; only the batch may be free. Export it with"
            " fixed sizes."
        )
    found = {"name": name, "dtype": dtype, "shape": _row(port)}
    if dtype == "uint8" and len(found["shape"]) == 3:
        found |= {"color_order": f"{ASKS} RGB, BGR or gray", "value_range": [0, 255]}
    return found


def _row(port: Port) -> Any:
    if port.dims is None:
        return [f"{ASKS} the sizes of {port.name} without the batch"]
    if port.free or 1 in port.dims:
        return [*without(port.dims, port.dims.index(FREE if port.free else 1))]
    if len(port.dims) == 2:
        raise UsageError(
            f"the graph's input {port} has a fixed batch of {port.dims[0]}. Export it with a batch of 1, or a free one."
        )
    return [*port.dims]
