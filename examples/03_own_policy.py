"""Export a policy that was trained elsewhere: python 03_own_policy.py [FOLDER]."""

import sys
from pathlib import Path

import numpy as np
import torch

from export import Deployable, export, verify
from export.importers import ImportOptions
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories


class Reach(torch.nn.Module):
    """A policy that does not know xfer: raw joint angles in, torques and the scores behind them out."""

    def forward(self, joints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torques = -torch.tanh(joints[:, :2])
        return torques, torques


folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
torques = ActionSpec("continuous", ("shoulder", "elbow"), "N m", low=(-1.0, -1.0), high=(1.0, 1.0))
spec = PolicySpec("", 50.0, (TensorSpec("joints", "float32", (4,)),), (), torques, "mean")
joints = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)  # what the robot recorded
Trajectories({"joints": joints}, np.arange(256) % 64 == 0).save(folder / "recorded.safetensors.gz")
importing = ImportOptions(observations=folder / "recorded.safetensors.gz")
export(Deployable(Reach(), spec), "eager,onnx-fp32", folder / "reach.bundle", importing=importing)
print({name: verdict.status for name, verdict in verify(folder / "reach.bundle").items()})
