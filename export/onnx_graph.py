"""The one step to ONNX, from torch or from a graph that was given. Every target that is fed with ONNX starts here."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from export.libraries.opset import OPSET
from export.libraries.pytorch import example_inputs
from export.libraries.terminal import quiet
from xfer.errors import UnavailableError, UsageError, XferError
from xfer.files import to_json
from xfer.runner import Session
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto
    from torch import nn

    from xfer.models.policy import Exportable

SPEC_METADATA_KEY = "xfer.spec"
"""Where the graph carries its PolicySpec, as JSON."""


GRAPH = "onnx-fp32"
"""The reference of a policy that came as an ONNX graph: the graph itself."""


@dataclass(frozen=True)
class GraphPolicy:
    """A policy that came as an ONNX graph. There is no PyTorch module of it.

    Attributes:
        graph: The graph with the spec's names, types and shapes, as a file holds it.
        spec: Its contract.
        max_batch: The largest batch that it takes, or None if it takes any.
        original: The graph as it was given, behind the same contract.
    """

    graph: bytes = field(repr=False)
    spec: PolicySpec
    max_batch: int | None = None
    original: Session | None = field(default=None, compare=False, repr=False)

    def deploy(self, precision: str = "fp32") -> NoReturn:
        """Refuse, since there is no module.

        Raises:
            UnavailableError: Always.
        """
        raise UnavailableError("it is made of a PyTorch module, and this policy is an ONNX graph")


def available() -> str | None:
    """None if torch can be exported to ONNX here, else what to install."""
    for module in ("torch", "torchvision"):
        if not importlib.util.find_spec(module):
            return "PyTorch is not installed: pip install 'xfer-policy[train]'"
    for module in ("onnx", "onnxscript"):
        if not importlib.util.find_spec(module):
            return f"{module} is not installed: pip install 'xfer-policy[onnx-export]'"
    return None


def libraries() -> dict[str, str]:
    """Versions that decide what the graph looks like."""
    return {name: version(name) for name in ("torch", "torchvision", "onnx", "onnxscript")}


def write_onnx(
    policy: Exportable | GraphPolicy,
    path: Path,
    opset: int = OPSET,
    precision: str = "fp32",
    *,
    cast_first: bool = False,
) -> int | None:
    """Write a policy as ONNX: export its module, or write the graph that it is.

    Args:
        policy: The policy.
        path: The file to write.
        opset: Version of ONNX's operators; a given graph keeps its own.
        precision: ``fp32`` or ``fp16``.
        cast_first: Whether a module of our own casts images before it cuts them.

    Returns:
        The largest batch that it takes, or None if it takes any.

    Raises:
        UsageError: If a given graph is asked for in another opset, or PyTorch does not write it.
        XferError: If the graph is not valid.
    """
    if not isinstance(policy, GraphPolicy):
        module = policy.deploy(precision)
        for part in module.modules() if cast_first else ():
            if hasattr(part, "cast_first"):
                part.cast_first = True  # type: ignore[assignment]
        export_onnx(module, path, opset)
        return None
    import onnx

    if opset != OPSET:
        raise UsageError(f"--opset {opset} does not fit: the graph that was given keeps its own")
    model = onnx.load_model_from_string(policy.graph)
    save_graph(_in_fp16(model) if precision == "fp16" else model, policy.spec, path)
    return policy.max_batch


def _in_fp16(model: ModelProto) -> ModelProto:
    """Return a graph that computes in fp16, between inputs and outputs of their own types."""
    import onnx_ir as ir
    from onnx_ir.passes.common import TopologicalSortPass
    from onnxruntime.transformers.float16 import convert_float_to_float16

    found = ir.serde.deserialize_model(convert_float_to_float16(model, keep_io_types=True))
    TopologicalSortPass()(found)  # casts of inputs come last
    return ir.serde.serialize_model(found)


def count(policy: GraphPolicy) -> tuple[int, int]:
    """Return (parameters, multiply-accumulates of one step), counted as PyTorch's counter does: matrices alone.

    What lies in a loop or branch counts once.
    """
    import onnx
    from onnx import helper

    model = onnx.load_model_from_string(policy.graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    parts = graphs(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    sizes: dict[str, list[int]] = {}
    for part in parts:
        sizes |= {one.name: [*one.dims] for one in part.initializer}
        values = (*part.input, *part.output, *part.value_info)
        sizes |= {one.name: [max(d.dim_value, 1) for d in one.type.tensor_type.shape.dim] for one in values}
    macs = 0
    for node in (node for part in parts for node in part.node):
        given, made = ([sizes.get(name, []) for name in names] for names in (node.input, node.output))
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type in ("Conv", "ConvTranspose") and len(given[1]) > 1:
            over = made[0] if node.op_type == "Conv" else given[0]
            macs += math.prod(over) * math.prod(given[1][1:])
        elif node.op_type in ("MatMul", "Gemm") and given[0]:
            macs += math.prod(made[0]) * given[0][0 if attributes.get("transA") else -1]
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            macs += math.prod(given[0][:2]) * (math.prod(given[1]) + math.prod(given[2]))
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    weights = (one for part in parts for one in part.initializer if one.data_type in floats)
    return sum(math.prod(one.dims) for one in weights), macs


def export_onnx(module: nn.Module, path: Path, opset: int = OPSET) -> None:
    """Write the module as one ONNX file with named tensors, a dynamic batch and its spec as metadata.

    Args:
        module: A deployed policy, contiguous, with its ``spec``.
        path: The file to write.
        opset: Version of ONNX's operators.

    Raises:
        UsageError: If PyTorch does not write this opset.
        XferError: If the graph is not valid.
    """
    import onnx
    import torch

    spec = cast(PolicySpec, module.spec)
    batch = torch.export.Dim("batch", min=1, max=1024)
    inputs = example_inputs(spec, batch=2)
    # By the names of forward()'s parameters; what it takes as *inputs or *states is a tuple.
    arguments = inspect.signature(module.forward).bind(*inputs).arguments
    dynamic = {
        name: ({0: batch},) * len(value) if isinstance(value, tuple) else {0: batch}
        for name, value in arguments.items()
    }
    apart = names_apart(spec)
    with quiet():
        torch.onnx.export(
            module,
            inputs,
            str(path),
            dynamo=True,
            opset_version=opset,
            input_names=[apart[tensor.name] for tensor in spec.inputs],
            output_names=[apart[name] for name in spec.output_names],
            dynamic_shapes=dynamic,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(str(path))
    if (found := next(entry.version for entry in model.opset_import if not entry.domain)) != opset:
        raise UsageError(f"--opset {opset}: PyTorch {torch.__version__} writes opset {found} instead.")
    rename(model, {name: own for own, name in apart.items()})
    save_graph(model, spec, path)


def names_apart(spec: PolicySpec) -> dict[str, str]:
    """Return for each name of the contract one that no library gives to a value of its own.

    Exporters and quantizers name inner values as they like ("linear", "frame_scale"), and merge what has one name.
    """
    return {name: f"xfer:{name}" for name in (*(tensor.name for tensor in spec.inputs), *spec.output_names)}


def rename(model: ModelProto, names: Mapping[str, str]) -> None:
    """Give values of a graph the names in ``names``. A value that has one of them already gets another."""
    parts = graphs(model.graph)
    present = {name for graph in parts for node in graph.node for name in (*node.input, *node.output)}
    present |= {value.name for graph in parts for value in (*graph.input, *graph.output, *graph.initializer)}
    new = dict(names)
    for name in set(names.values()) & (present - {*names}):
        new[name] = next(n for n in (f"{name}_{i}" for i in itertools.count(1)) if n not in present | {*names.values()})
    for graph in parts:
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = new.get(value.name, value.name)
        for node in graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]


def save_graph(model: ModelProto, spec: PolicySpec, path: Path) -> None:
    """Write a valid graph that explains itself, and that no runtime is too old for without need.

    Args:
        model: The graph. Its metadata get the spec; opsets that no node is of go, and so does a newer IR version
            than the others need.
        spec: The contract.
        path: The file to write.

    Raises:
        XferError: If ``onnx.checker`` refuses the graph.
    """
    import onnx
    from onnx import helper

    metadata = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**metadata, SPEC_METADATA_KEY: to_json(spec).decode()})
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    used = {"", *(node.domain for node in (*nodes, *(node for part in model.functions for node in part.node)))}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.ir_version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise XferError(f"the ONNX graph is not valid: {' '.join(str(error).split())}") from error
    onnx.save(model, str(path))


def graphs(graph: GraphProto) -> list[GraphProto]:
    """Return a graph and those inside its nodes (of If and Loop)."""
    inner = [
        part for node in graph.node for a in node.attribute for part in (*a.graphs, *([a.g] if a.HasField("g") else []))
    ]
    return [graph, *(part for one in inner for part in graphs(one))]


def nodes_in_scope(path: Path, scope: str) -> list[str]:
    """Return the names of the nodes that came from the submodule called ``scope``."""
    import onnx

    names = []
    for node in onnx.load(str(path)).graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "")
        if scope in scopes:
            names.append(node.name)
    return names
