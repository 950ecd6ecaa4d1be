"""Policies of LeRobot: they act as LeRobot itself did, and what cannot be taken is refused in one line."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from export.importers import lerobot
from xfer.errors import UsageError, WeightsError
from xfer.models.torch_session import TorchSession
from xfer.runner import Runner

DATA = Path(__file__).parents[2] / "data/lerobot"
CASES = ("cameras", "ensemble", "dilated")
HZ = 25.0
CLOSE = 1e-5


def _load(path):
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


drawn = _load(DATA / "drawn.py")


def pretrained(case, folder):
    """Write a ``pretrained_model`` folder as LeRobot left it, its weights drawn again; return it."""
    shutil.copytree(DATA / case, folder)
    config = lerobot.read_config(folder)
    from export.importers._lerobot.act import ACT

    with torch.device("meta"):
        network = ACT(config)
    shapes = {f"model.{name}": tuple(one.shape) for name, one in network.state_dict().items()}
    shapes["model.vae_encoder_cls_embed.weight"] = (1, config.dim_model)  # which training has, and inference does not need
    save_file({name: drawn.weight(name, shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=CASES)
def policy(request, tmp_path_factory):
    folder = pretrained(request.param, tmp_path_factory.mktemp("lerobot") / request.param)
    return request.param, folder, lerobot.load(folder, control_hz=HZ)


def played(case, policy, session, rows):
    """Return [60, rows, A]: what a runner does with the observations that LeRobot saw."""
    config = lerobot.read_config(DATA / case)
    seen = {}
    for one in policy.spec.observations:
        name = {"front": "top"}.get(one.name, one.name)  # as the preprocessor renames it
        long = next(key for key in config.input_features if key.endswith(f".{name}"))
        seen[one.name] = drawn.observation(case, long, config.input_features[long].shape)[:, :rows]
    runner = Runner(session, policy.spec, rows)
    actions = []
    for step in range(drawn.STEPS):
        if step in (0, drawn.RESET):
            runner.reset()
        actions.append(runner.act({name: array[step] for name, array in seen.items()}).action)
    return np.stack(actions)


@pytest.mark.parametrize("rows", [1, 3])
def test_it_acts_as_lerobots_select_action_and_postprocessor_did(policy, rows):
    case, _, made = policy
    wanted = load_file(DATA / case / "actions.safetensors")
    found = played(case, made, TorchSession(made.deploy(), made.spec), rows)
    np.testing.assert_allclose(found, wanted["three"] if rows == 3 else wanted["one"][:, None], rtol=0, atol=CLOSE)
