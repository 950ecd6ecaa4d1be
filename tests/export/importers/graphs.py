"""ONNX graphs as text, their specs, and recordings for them."""

import json
from pathlib import Path

import numpy as np
import onnx

from xfer.trajectories import Trajectories

LINEAR = "<float[4,2] w = {1.0, -1.0, 0.5, 0.0, 0.0, 0.5, -1.0, 1.0}>"
WALK = "float[N,4] obs) => (float[N,2] actions", f"{LINEAR} {{ actions = MatMul(obs, w) }}"
"""Takes four numbers, gives two: a policy without states."""


def save(path: Path, ports: str, body: str, opset: int = 17, ir: int = 8, domains: str = "") -> Path:
    """Write a graph of ONNX's text format."""
    head = f'<ir_version: {ir}, opset_import: ["" : {opset}{domains}]> g ({ports})'
    onnx.save(onnx.parser.parse_model(f"{head} {body}"), path)
    return path


def spec(path: Path, **changes) -> Path:
    """Write a ``spec.json`` of ``WALK``, with changes; None leaves a field out."""
    plain = {
        "task": "",
        "control_hz": 50,
        "observations": [{"name": "obs", "dtype": "float32", "shape": [4]}],
        "states": [],
        "action": {"kind": "continuous", "elements": ["hip", "knee"], "unit": "rad"},
        "score_kind": "mean",
        "graph": {"outputs": {"action": "actions"}},
    } | changes
    path.write_text(json.dumps({key: value for key, value in plain.items() if value is not None}))
    return path


def record(path: Path, steps: int = 80, seed: int = 0, **observations) -> Path:
    """Write observations, by default normal ones of ``WALK``, in episodes of 20 steps."""
    seen = observations or {"obs": np.random.default_rng(seed).normal(size=(steps, 4)).astype(np.float32)}
    Trajectories(seen, np.arange(steps) % 20 == 0).save(path)
    return path
