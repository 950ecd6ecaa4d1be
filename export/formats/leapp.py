"""The LEAPP bundle, which NVIDIA's Isaac ROS Deploy and leapp's InferenceManager run (https://github.com/nvidia-isaac/leapp).

    cartpole-onnx-fp32.leapp/
      policy.yaml                        inputs, outputs, which output returns as which input, SHA-256 of the graph
      policy.onnx                        the variant's graph as it is
      policy_initial_values.safetensors  the states that an episode begins with

Written after leapp 0.7.2 (configuration 1.3), and without it: JSON is YAML. A tensor has no ``kind`` here, since a
PolicySpec does not say which of a robot's signals it is. Isaac ROS Deploy then takes it from a topic of tensors; its
own converters for images give float32, while a policy takes the camera's uint8.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from export.bundle.manifest import Build
from export.bundle.reader import Bundle
from export.targets import onnx
from xfer import __version__
from xfer.errors import BundleError, UsageError
from xfer.files import to_json, writable, write_atomically
from xfer.spec import STATE_SUFFIX, PolicySpec, TensorSpec

SUFFIX = ".leapp"
TARGETS = ("onnx",)

NODE = "policy"
"""Name of the one node of the graph; ``policy/frame`` is its input ``frame``."""
YAML, ONNX, INITIAL = f"{NODE}.yaml", f"{NODE}.onnx", f"{NODE}_initial_values.safetensors"
CONFIG_VERSION = "1.3"


def write(output: Path, bundle: Bundle, build: Build) -> None:
    """Write a LEAPP bundle for batch 1. What is there already is replaced file by file, the description last.

    Args:
        output: The folder to write; made if it is not there.
        bundle: Where the variant is.
        build: An ONNX variant's entry.

    Raises:
        UsageError: If the policy plans ahead or sees several frames, which LEAPP's runners keep nothing of.
        BundleError: If the variant's files are damaged, the folder holds something else, or it cannot be written to.
    """
    folder, spec = output, bundle.spec
    if spec.queued:
        what = f"action chunks (horizon {spec.action.horizon})" if spec.action.horizon > 1 else "frames of observations"
        raise UsageError(f"--format leapp has no notion of {what}, which {bundle.path} needs. Use --format xfer.")
    graph = (bundle.check(build) / onnx.FILE).read_bytes()
    if folder.exists() and not (folder.is_dir() and ((folder / YAML).exists() or not any(folder.iterdir()))):
        raise BundleError(f"{folder} exists and is not a LEAPP bundle. Choose another --output, or delete it.")
    with writable(folder, BundleError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ONNX, graph)
        if spec.states:
            values = {f"{NODE}/{state.name}": state.zeros(1) for state in spec.states}
            write_atomically(folder / INITIAL, save(values))
        write_atomically(folder / YAML, to_json(describe(graph, spec)))


def describe(graph: bytes, spec: PolicySpec) -> dict[str, Any]:
    """Return the content of the YAML file: ``models``, ``pipeline`` and ``system information``."""
    outputs = zip(spec.output_names, (spec.action.tensor, spec.scores, *spec.states), strict=True)
    pipeline = {
        "data_flow": {},
        "feedback_flow": {f"{NODE}/{s.name}{STATE_SUFFIX}": [f"{NODE}/{s.name}"] for s in spec.states},
        "inputs": {NODE: [tensor.name for tensor in spec.observations]},
        "outputs": {NODE: list(spec.output_names[:2])},
        "configs": {"frequency": spec.control_hz},
    }
    model = {
        "inputs": [_tensor(tensor.name, tensor) for tensor in spec.inputs],
        "outputs": [_tensor(name, tensor) for name, tensor in outputs],
        "parameters": {
            "model_path": ONNX,
            "md5sum": hashlib.md5(graph, usedforsecurity=False).hexdigest(),
            "sha256sum": hashlib.sha256(graph).hexdigest(),
            "backend": "onnx",
        },
    }
    return {
        "models": {NODE: model},
        "pipeline": pipeline | ({"initial_values": INITIAL} if spec.states else {}),
        "system information": {"leapp config version": CONFIG_VERSION, "xfer version": __version__},
    }


def _tensor(name: str, tensor: TensorSpec) -> dict[str, Any]:
    described = {"name": name, "dtype": tensor.dtype, "shape": [1, *tensor.shape], "type": "tensor"}
    # One list of names an axis; the batch has none.
    return described | ({"element_names": [[], list(tensor.elements)]} if tensor.elements else {})
