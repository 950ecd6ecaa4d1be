"""Puts a spec's names, types and shapes around somebody's graph: casts, transposed states, bounds, missing scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from export.importers._onnx_layout import NO_BATCH, Layout, row_shape
from export.onnx_graph import graphs, rename
from xfer.spec import PolicySpec, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto


class Operation(NamedTuple):
    """An operator of ONNX on one value: its attributes, and a constant second input or None."""

    kind: str
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never written to
    constant: np.ndarray | None = None


def bind(
    model: ModelProto, spec: PolicySpec, inputs: Sequence[Layout], outputs: Mapping[str, Layout], *, batch: int | None
) -> ModelProto:
    """Return a graph that takes and gives what the spec says, with the given one inside.

    A continuous action is clipped to its bounds. What is missing is made: a discrete action is the best score's; scores
    are the action itself, of a discrete one 1 for it and 0 for others.

    Args:
        model: The given graph, without what is not needed.
        spec: The contract.
        inputs: How each observation and state lies in it.
        outputs: How the action, the scores (one of the two may be missing) and the next states lie in it, by their
            names.
        batch: The only batch that it takes, or None if it takes any.
    """
    return _Binding(model, spec, batch).bound(inputs, outputs)


class _Binding:
    def __init__(self, model: ModelProto, spec: PolicySpec, batch: int | None) -> None:
        self.model = type(model)()
        self.model.CopyFrom(model)
        self.spec, self.batch = spec, batch
        self.before: list[NodeProto] = []
        self.after: list[NodeProto] = []

    def bound(self, inputs: Sequence[Layout], outputs: Mapping[str, Layout]) -> ModelProto:
        graph = self.model.graph
        _name_nodes(self.model)
        # Whatever else has a name of the contract makes room for it.
        names = {layout.port.name: f"given:{layout.port.name}" for layout in (*inputs, *outputs.values())}
        rename(self.model, names)
        rename(self.model, {tensor.name: f"inner:{tensor.name}" for tensor in _tensors(self.spec)})
        made = {name for node in graph.node for name in node.output}
        plain: dict[str, str] = {}
        for layout in inputs:
            inner, tensor = names[layout.port.name], layout.tensor
            if steps := self._into(layout):
                self._chain(self.before, tensor.name, steps, inner)
            else:
                plain[inner] = tensor.name
        given = {name: names[layout.port.name] for name, layout in outputs.items()}
        for name, source, steps in self._made(outputs, given):
            if not steps and source in made and source not in plain and [*given.values()].count(source) == 1:
                plain[source] = name
            else:
                self._chain(self.after, source, steps or [Operation("Identity")], name)
        # What a node of ours reads has perhaps another name by now.
        for node in self.after:
            node.input[:] = [plain.get(name, name) for name in node.input]
        rename(self.model, plain)
        nodes = [*self.before, *graph.node, *self.after]
        for part in (graph.node, graph.input, graph.output, graph.value_info):
            del part[:]
        graph.node.extend(nodes)
        graph.input.extend(self._declared(tensor) for tensor in self.spec.inputs)
        graph.output.extend(self._declared(tensor) for tensor in output_tensors(self.spec))
        return self.model

    def _made(self, outputs: Mapping[str, Layout], given: Mapping[str, str]) -> list[tuple[str, str, list[Operation]]]:
        """Return of each output of the contract what it is made of: a value of the graph, and operations."""
        action = self.spec.action
        own = {name: (given[name], self._out_of(layout)) for name, layout in outputs.items()}
        chosen, steps = own["action"] if "action" in own else own["scores"]
        if action.kind == "continuous":
            low, high = np.array(action.low, np.float32), np.array(action.high, np.float32)
            decided = [Operation("Max", {}, low), Operation("Min", {}, high)] if action.low else []
            score = []
        else:
            best = Operation("ArgMax", {"axis": len(self.spec.scores.shape), "keepdims": 0})
            decided = [] if "action" in own else [best]
            score = [
                Operation("Reshape", {}, np.array([self.batch or -1, *action.tensor.shape, 1])),
                Operation("Equal", {}, np.arange(len(action.elements))),
                Operation("Cast", {"to": _element_type("float32")}),
            ]
        scores = own.get("scores", (chosen, [*steps, *score]))
        states = [(name, *own[name]) for name in self.spec.output_names[2:]]
        return [("action", chosen, [*steps, *decided]), ("scores", *scores), *states]

    def _into(self, layout: Layout) -> list[Operation]:
        """Return the operations that make the graph's input of the contract's."""
        steps = list[Operation]()
        if layout.port.dtype != layout.tensor.dtype:
            steps.append(Operation("Cast", {"to": _element_type(layout.port.dtype)}))
        if layout.axis == NO_BATCH:
            steps.append(Operation("Reshape", {}, np.array(layout.port.dims or ())))
        elif layout.axis:
            rank = len(layout.port.dims or ())
            perm = [*range(1, layout.axis + 1), 0, *range(layout.axis + 1, rank)]
            steps.append(Operation("Transpose", {"perm": perm}))
        return steps

    def _out_of(self, layout: Layout) -> list[Operation]:
        """Return the operations that make the contract's output of the graph's."""
        steps = list[Operation]()
        rank, shape = len(layout.port.dims or ()), layout.tensor.shape
        if layout.port.dtype != layout.tensor.dtype:
            steps.append(Operation("Cast", {"to": _element_type(layout.tensor.dtype)}))
        if layout.axis > 0:
            perm = [layout.axis, *(axis for axis in range(rank) if axis != layout.axis)]
            steps.append(Operation("Transpose", {"perm": perm}))
        if layout.axis == NO_BATCH or rank != len(shape) + 1:
            steps.append(Operation("Reshape", {}, np.array([self.batch or -1, *shape])))
        return steps

    def _chain(self, nodes: list[NodeProto], source: str, steps: Sequence[Operation], end: str) -> None:
        """Append nodes that make the value ``end`` of ``source``."""
        from onnx import helper, numpy_helper

        for index, (operator, attributes, constant) in enumerate(steps):
            name = f"contract:{end}:{index}"
            given, gives = [source], end if index == len(steps) - 1 else name
            if constant is not None:
                given.append(f"{name}:value")
                self.model.graph.initializer.append(numpy_helper.from_array(constant, given[1]))
            nodes.append(helper.make_node(operator, given, [gives], name, **attributes))
            source = gives

    def _declared(self, tensor: TensorSpec) -> ValueInfoProto:
        from onnx import helper

        shape = [self.batch or "batch", *row_shape(tensor)]
        return helper.make_tensor_value_info(tensor.name, _element_type(tensor.dtype), shape)


def output_tensors(spec: PolicySpec) -> list[TensorSpec]:
    """Return the contract's outputs as tensors, in their order."""
    states = (
        TensorSpec(name, "float32", state.shape) for name, state in zip(spec.output_names[2:], spec.states, strict=True)
    )
    return [spec.action.tensor, spec.scores, *states]


def _tensors(spec: PolicySpec) -> list[TensorSpec]:
    return [*spec.inputs, *output_tensors(spec)]


def _element_type(dtype: str) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _name_nodes(model: ModelProto) -> None:
    """Give each node a name of its own, by which a quantizer finds it."""
    taken: set[str] = set()
    for index, node in enumerate(node for part in graphs(model.graph) for node in part.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
