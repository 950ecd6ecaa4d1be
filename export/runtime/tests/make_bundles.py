"""Makes the bundles that the runtime's tests open: ``python make_bundles.py FOLDER``. It needs xfer, torch and onnx.

    cartpole.bundle    a ResNet's first stage on CartPole's frames, with a history of frames and a GRU; discrete
    two.bundle         two observations, an image and a vector, and no state; discrete
    recurrent.bundle   a vector and a recurrent state; continuous

All weights are random: what is tested is that two runtimes say the same, not that they say something clever. Every
bundle gets the variants whose libraries are installed. What is there already is kept; the exit status is 77 if
something that is needed is not installed.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from xfer.runner import Session
    from xfer.spec import PolicySpec
    from xfer.trajectories import Trajectories

NEEDED = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
VARIANTS = ("onnx-fp32", "torchscript-fp32", "openvino-fp32")
ALSO = {"cartpole": ("onnx-int8", "tensorrt-fp32"), "recurrent": ("aotinductor-fp32",)}
"""int8 and TensorRT of xfer's own policies only, whose graph they know; AOTInductor once: its compiler takes long."""
SKIPPED = 77


def main(folder: Path) -> int:
    """Make what is missing, and return the exit status."""
    missing = [name for name in NEEDED if not importlib.util.find_spec(name)]
    if missing:
        print(f"not installed: {', '.join(missing)}")
        return SKIPPED
    import torch

    torch.manual_seed(4)
    torch.set_num_threads(1)
    makers: dict[str, Callable[[], Any]] = {
        "cartpole": cartpole,
        "two": two_observations,
        "recurrent": recurrent,
    }
    for name, make in makers.items():
        path = folder / f"{name}.bundle"
        if not path.exists():
            part = folder / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            write(part, make(), (*VARIANTS, *ALSO.get(name, ())))
            part.rename(path)
        print(path)
    return 0


def cartpole() -> nn.Module:
    """A small policy of xfer's own."""
    from xfer import tasks
    from xfer.models.config import PolicyConfig
    from xfer.models.contract import make_spec
    from xfer.models.policy import Policy

    task = tasks.load("cartpole")
    config = PolicyConfig("resnet18", "layer1", "flatten", 8, task.image, memory="gru", memory_size=16)
    return Policy(config, make_spec(task, task.image, "values", memory=16)).eval().deploy()


def two_observations() -> nn.Module:
    """An image and a vector, no state."""
    import torch
    from torch import Tensor, nn

    from xfer.spec import ActionSpec, PolicySpec, TensorSpec

    class TwoObservations(nn.Module):
        spec = PolicySpec(
            "two",
            20.0,
            (
                TensorSpec("image", "uint8", (24, 32, 3), color_order="BGR", value_range=(0, 255)),
                TensorSpec("joints", "float32", (3,), ("shoulder", "elbow", "wrist"), "rad"),
            ),
            (),
            ActionSpec("discrete", ("stay", "reach", "grip")),
            "logits",
        )

        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Sequential(nn.Conv2d(3, 8, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(560, 8))
            self.head = nn.Linear(11, 3)

        def forward(self, image: Tensor, joints: Tensor) -> tuple[Tensor, ...]:
            seen = self.see(image.float().permute(0, 3, 1, 2) / 255)
            scores = self.head(torch.cat([seen, joints], dim=1))
            return scores.argmax(dim=1), scores

    return TwoObservations().eval()


def recurrent() -> nn.Module:
    """A vector, a recurrent state, a continuous action."""
    import torch
    from torch import Tensor, nn

    from xfer.spec import ActionSpec, PolicySpec, TensorSpec

    class Recurrent(nn.Module):
        limits: Tensor
        spec = PolicySpec(
            "recurrent",
            200.0,
            (TensorSpec("proprio", "float32", (6,)),),
            (TensorSpec("memory", "float32", (16,)), TensorSpec("mean", "float32", (2, 3))),
            ActionSpec("continuous", ("x", "y"), "N m", (-2.0, -1.0), (2.0, 1.0)),
            "mean",
        )

        def __init__(self) -> None:
            super().__init__()
            self.read, self.keep, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(22, 2)
            self.register_buffer("limits", torch.tensor([2.0, 1.0]))

        def forward(self, proprio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
            memory, mean = states
            memory_out = torch.tanh(self.read(proprio) + self.keep(memory))
            mean_out = 0.9 * mean + 0.1 * proprio.reshape(-1, 2, 3)
            scores = self.head(torch.cat([memory_out, mean_out.flatten(1)], dim=1))
            return torch.tanh(scores) * self.limits, scores, memory_out, mean_out

    return Recurrent().eval()


def random_trajectories(spec: PolicySpec, seed: int, steps: int) -> Trajectories:
    """Observations that nobody would meet, in episodes of 8 steps."""
    from xfer.trajectories import Trajectories

    rng = np.random.default_rng(seed)
    observations = {
        o.name: rng.integers(0, 256, (steps, *o.shape), np.uint8)
        if o.dtype == "uint8"
        else rng.standard_normal((steps, *o.shape)).astype(o.dtype)
        for o in spec.observations
    }
    return Trajectories(observations, np.arange(steps) % 8 == 0)


def from_late(whole: Trajectories, session: Session, spec: PolicySpec) -> Trajectories:
    """Return what a policy does, the second episode without its beginning."""
    from export.verification.fidelity.live import alone
    from xfer.runner import Runner

    (late,) = (moment for moment in alone(session, spec, {"golden": whole}) if moment.t == 12)
    starts = {name: np.concatenate([0 * array, array, 0 * array]) for name, array in late.states.items()}
    return whole.replay(Runner(session, spec)).take([slice(0, 8), slice(12, 16), slice(16, 24)], starts)


def write(path: Path, module: Any, variants: Sequence[str]) -> None:
    """Write a bundle of a deployed module, with the variants that can be made here."""
    from export import targets
    from export.bundle.manifest import Build, Provenance
    from export.bundle.writer import BundleWriter, References
    from export.targets import ExportOptions, ExportRequest, Variant
    from xfer import __version__
    from xfer.models.torch_session import TorchSession

    class Deployable:
        @staticmethod
        def deploy(precision: str = "fp32") -> nn.Module:
            if precision != "fp32":
                raise ValueError(precision)
            result: nn.Module = module
            return result

    spec = module.spec
    golden = from_late(random_trajectories(spec, 1, 24), TorchSession(module, spec), spec)
    calibration = random_trajectories(spec, 2, 16)
    writer = BundleWriter(path)
    writer.begin(
        spec,
        Provenance("", "0" * 64, "none", "none", "none", 0, 0, __version__),
        lambda: References(golden),
        "eager-fp32",
    )
    deployable: Any = Deployable
    request = ExportRequest(deployable, spec, calibration, ExportOptions())
    for variant in map(Variant.parse, variants):
        maker = targets.load(variant.target)
        if maker.available() is not None:
            continue
        with writer.temporary_folder() as folder:
            exported = maker.export(request, folder, variant.precision)
            writer.add(Build(str(variant), "built", key="0" * 12, max_batch=exported.max_batch), folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
