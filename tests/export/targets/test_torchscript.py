"""What is TorchScript's own; the contract that it shares with the other targets is in ``test_targets.py``."""

import numpy as np
import pytest
import torch
from torch import nn

from export import Deployable
from export.targets import ExportOptions, ExportRequest, Place, torchscript
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

FRAME = TensorSpec("frame", "float32", (3, 12, 12))
SPEC = PolicySpec("", 50.0, (FRAME,), (), ActionSpec("discrete", ("left", "stay", "right")), "logits")


class Looks(nn.Module):
    def __init__(self, after: nn.Module, size: int) -> None:
        super().__init__()
        self.seen, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), after, nn.Flatten()), nn.Linear(size, 3)

    def forward(self, frame):
        scores = self.head(self.seen(frame))
        return scores.argmax(1), scores


class Clamp(nn.Module):
    def forward(self, x):
        return x.clamp(0, 6)


@pytest.mark.parametrize(
    ("after", "size", "cause"),
    [
        (Clamp(), 400, "expected double"),
        (nn.AdaptiveAvgPool2d(4), 64, "input size is not divisible by the output size"),
        (nn.ReLU(), 400, ""),
    ],
    ids=["a clamp between integers", "a pooling to a size that does not divide", "neither"],
)
def test_a_module_that_cannot_be_optimized_runs_as_it_is(after, size, cause, tmp_path):
    policy = Deployable(Looks(after, size), SPEC)
    frames = np.random.default_rng(0).random((3, 3, 12, 12), np.float32)
    request = ExportRequest(policy, SPEC, Trajectories({"frame": frames}, np.ones(3, bool)), ExportOptions())
    notes = torchscript.export(request, tmp_path, "fp32").notes
    assert cause in notes
    assert bool(cause) == notes.startswith("frozen, and not optimized: RuntimeError: ")
    with torchscript.load(tmp_path, SPEC, Place()) as session, torch.inference_mode():
        wanted = policy.deploy()(torch.from_numpy(frames))[1]
        np.testing.assert_allclose(session.step({"frame": frames}, {}).scores, wanted, atol=1e-5)
