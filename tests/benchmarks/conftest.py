import numpy as np
import pytest

from export.bundle.reader import Bundle
from tests.conftest import made_once


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A cut ResNet-18 with random weights in every form that the CPU runs, and noise for golden frames."""
    import torch

    from export.build import export_policy
    from export.targets import Variant
    from xfer import tasks
    from xfer.models.config import PolicyConfig
    from xfer.models.contract import make_spec
    from xfer.models.policy import Policy
    from xfer.trajectories import Trajectories

    task = tasks.load("cartpole")
    config = PolicyConfig("resnet18", "stem", "average", 8, task.image)
    spec = make_spec(task, task.image, "values")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = Policy(config, spec).eval()
    frames = np.random.default_rng(0).integers(0, 256, (6, 400, 600, 3), dtype=np.uint8)
    seen = Trajectories({"frame": frames}, np.array([True, False, False, True, False, False]))
    variants = [Variant.parse(v) for v in ("eager-fp32", "torchscript-fp32", "onnx-fp32", "onnx-int8")]

    def make(path):
        for build, _ in export_policy(policy, spec, seen, seen, variants, path, run="runs/<small>"):
            assert build.status == "built", build.reason

    return Bundle(made_once(tmp_path_factory, "random.bundle", make))
