"""The one step from torch to ONNX. Every target that is fed with ONNX starts here."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from export.libraries.pytorch import example_inputs
from xfer.files import to_json
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from torch import nn

OPSET = 20
SPEC_METADATA_KEY = "xfer.spec"
"""Where the graph carries its PolicySpec, as JSON."""


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


def export_onnx(module: nn.Module, path: Path) -> None:
    """Write the module as one ONNX file with named tensors, a dynamic batch and its spec as metadata.

    Args:
        module: A deployed policy, contiguous, with its ``spec``.
        path: The file to write.
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
    with _quiet():
        torch.onnx.export(
            module,
            inputs,
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=list(spec.output_names),
            dynamic_shapes=dynamic,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(str(path))
    add_spec(model, spec)
    onnx.save(model, str(path))


def add_spec(model: onnx.ModelProto, spec: PolicySpec) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Store the spec in the graph's metadata, so that the file explains itself."""
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC_METADATA_KEY, to_json(spec).decode()


def nodes_in_scope(path: Path, scope: str) -> list[str]:
    """Return the names of the nodes that came from the submodule called ``scope``."""
    import onnx

    names = []
    for node in onnx.load(str(path)).graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "")
        if scope in scopes:
            names.append(node.name)
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress report and its notices about itself off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
