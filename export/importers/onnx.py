"""Anybody's ONNX graph with a ``spec.json``: `xfer export policy.onnx --spec spec.json`.

The graph itself, run by ONNX Runtime in fp32, is what its variants are compared with. It gets the spec's names, types
and shapes: states whose batch is not their first dimension are transposed, a continuous action is clipped to its
bounds, and where there are no scores the action is the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from export.importers._onnx_bind import bind, output_tensors
from export.importers._onnx_given import Given, Port
from export.importers._onnx_layout import Layout, of_input, of_output
from export.importers._onnx_spec import GraphSpec, read_spec
from export.libraries.causes import reason
from export.onnx_graph import GraphPolicy
from xfer.errors import UsageError, XferError
from xfer.runner import Arrays, Step
from xfer.spec import STATE_SUFFIX, PolicySpec, TensorSpec


def load(path: Path, spec_file: Path) -> GraphPolicy:
    """Return the policy that is in a graph.

    Args:
        path: The graph.
        spec_file: Its ``spec.json``; see ``_onnx_spec``.

    Raises:
        WeightsError: If the graph's file is missing or damaged.
        UsageError: If no policy can be made of the graph, the spec still asks for something, or they do not fit.
        UnavailableError: If a library is missing, or too old for the graph.
    """
    file, whole = read_spec(spec_file), Given(path)
    spec = file.policy
    with _naming(spec_file):
        names = _outputs(file, whole)
    given = whole.only([*names.values()])
    with _naming(spec_file):
        inputs = [of_input(tensor, port) for tensor, port in _inputs(file, whole, given)]
    one, two = _tried(given, inputs, [*dict.fromkeys(names.values())])
    tensors = {tensor.name: tensor for tensor in output_tensors(spec)}
    with _naming(spec_file):
        outputs = {
            name: of_output(tensors[name], own, one[own], two[own] if two else None) for name, own in names.items()
        }
    any_batch = two is not None and all(layout.free for layout in outputs.values())
    graph = bind(given.model, spec, inputs, outputs, batch=None if any_batch else 1)
    original = AsGiven(given, spec, inputs, outputs)
    return GraphPolicy(graph.SerializeToString(deterministic=True), spec, None if any_batch else 1, original)


@contextmanager
def _naming(spec_file: Path) -> Iterator[None]:
    """Name the file of the spec in what is wrong with it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{spec_file}: {error}") from error


def _outputs(file: GraphSpec, given: Given) -> dict[str, str]:
    """Return the graph's name of each output that it has: action or scores or both, and all next states."""
    there, named = {port.name for port in given.outputs}, file.graph.outputs
    found = {name: named.get(name, name) for name in file.output_names}
    for name, own in found.items():
        if own not in there and (name in named or name not in ("action", "scores")):
            raise UsageError(
                f"the graph has no output '{own}' for '{name}'; it has {given.listed(given.outputs)}. Name one in"
                " graph.outputs."
            )
    found = {name: own for name, own in found.items() if own in there}
    if "action" not in found and ("scores" not in found or file.action.kind == "continuous"):
        one = [port.name for port in given.outputs if port.name not in found.values()]
        if len(one) != 1:
            raise UsageError(
                f"which output of the graph is the action? It has {given.listed(given.outputs)}. Name it in"
                ' graph.outputs, as "action": "NAME".'
            )
        found["action"] = one[0]
    return found


def _inputs(file: GraphSpec, whole: Given, needed: Given) -> list[tuple[TensorSpec, Port]]:
    """Return each observation and state with the graph's input that it is."""
    there = {port.name: port for port in whole.inputs}
    found = {tensor.name: file.graph.inputs.get(tensor.name, tensor.name) for tensor in file.inputs}
    missing = [name for name, own in found.items() if own not in there]
    if missing == [file.observations[0].name] and not file.graph.inputs and len(there) == len(found):
        found[missing[0]] = next(name for name in there if name not in found.values())  # no other can be meant
    for name, own in found.items():
        if own not in there:
            raise UsageError(
                f"the graph has no input '{own}' for '{name}'; it has {whole.listed(whole.inputs)}. Name one in"
                " graph.inputs."
            )
    if others := [port for port in needed.inputs if port.name not in found.values()]:
        raise UsageError(
            f"the graph needs its input {others[0]}, and the spec names none of that: add it to observations, or to"
            " states, or name it in graph.inputs."
        )
    if doubled := next((own for own in found.values() if [*found.values()].count(own) > 1), ""):
        raise UsageError(f"graph.inputs names '{doubled}' twice.")
    return [(tensor, there[found[tensor.name]]) for tensor in file.inputs]


def _tried(
    given: Given, inputs: Sequence[Layout], names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """Return what the graph gives for zeros in a batch of 1, and in one of 2, or None if it takes no such.

    Raises:
        UsageError: If it takes no batch of 1 either.
    """
    found = []
    for batch in (1, 2) if all(layout.free for layout in inputs) else (1,):
        feeds = {one.port.name: one.to_graph(one.tensor.zeros(batch)) for one in inputs}
        try:
            found.append(dict(zip(names, given.act(feeds, names), strict=True)))
        except XferError:
            raise
        except Exception as error:  # whatever ONNX Runtime raises
            if batch == 1:
                raise UsageError(f"{given.path} fails on zeros of its spec's shapes ({reason(error)}).") from error
    return found[0], found[1] if len(found) > 1 else None


class AsGiven:
    """The graph as it was given, behind the contract: what it does, the one with the contract's names must do.

    Args:
        given: The graph.
        spec: The contract.
        inputs: How each observation and state lies in it.
        outputs: How the outputs that it has lie in it, by their names.
    """

    def __init__(self, given: Given, spec: PolicySpec, inputs: Sequence[Layout], outputs: Mapping[str, Layout]) -> None:
        self._given, self._spec, self._inputs, self._outputs = given, spec, inputs, outputs

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run it once for each row: it may take one alone."""
        together = {**observations, **states}
        count = len(next(iter(together.values())))
        rows = [self._row({name: x[row : row + 1] for name, x in together.items()}) for row in range(count)]
        made = {name: np.concatenate([row[name] for row in rows]) for name in self._outputs}
        action = self._spec.action
        chosen = made["action"] if "action" in made else made["scores"].argmax(axis=-1)
        scores = made.get("scores", chosen)
        if action.kind == "discrete" and "scores" not in made:
            scores = np.eye(len(action.elements), dtype=np.float32)[chosen]
        elif action.low:
            chosen = np.clip(chosen, *np.array([action.low, action.high], np.float32))
        return Step(chosen, scores, {state.name: made[state.name + STATE_SUFFIX] for state in self._spec.states})

    def _row(self, given: Arrays) -> dict[str, np.ndarray]:
        feeds = {layout.port.name: layout.to_graph(given[layout.tensor.name]) for layout in self._inputs}
        names = [layout.port.name for layout in self._outputs.values()]
        made = self._given.act(feeds, names)
        return {name: layout.from_graph(x) for (name, layout), x in zip(self._outputs.items(), made, strict=True)}
