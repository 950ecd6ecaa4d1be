"""A picture and a vector in, a continuous action out: through export, the first two gates, and their faults."""

import numpy as np
import pytest
import torch

from export import Bundle
from export.build import export_policy
from export.targets import expand
from export.verification.fault_injection import inject
from export.verification.fault_injection.faults import FAULTS
from export.verification.parity import first_gates
from xfer.models.config import PolicyConfig
from xfer.models.policy import Policy
from xfer.spec import ActionSpec, ImageConfig, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories

SPEC = PolicySpec(
    "no-such-task",
    20.0,
    (
        TensorSpec("joints", "float32", (3,), ("a", "b", "c"), "rad"),
        TensorSpec("frame", "uint8", (32, 32, 3), color_order="RGB", value_range=(0, 255)),
    ),
    (TensorSpec("history", "float32", (2, 16, 16)),),
    ActionSpec("continuous", ("turn", "gas"), "", (-2.0, 0.0), (2.0, 1.0)),
    "mean",
)


def met(seed, steps):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (steps, 32, 32, 3), np.uint8)
    return Trajectories(
        {"joints": rng.standard_normal((steps, 3)).astype(np.float32), "frame": frames}, np.arange(steps) % 10 == 0
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    image = ImageConfig((0, 32, 0, 32), shrink=2)
    policy = Policy(PolicyConfig("resnet18", "layer1", "spatial-softmax", 8, image, (16,)), SPEC).eval()
    policy.fit_standardize("all", torch.zeros(1), torch.from_numpy(met(0, 100).observations["joints"]) * 3 + 1)
    path = tmp_path_factory.mktemp("mixed") / "mixed.bundle"
    export_policy(policy, SPEC, met(1, 40), met(2, 30), expand("eager,torchscript,onnx,openvino"), path, run="nowhere")
    return Bundle(path)


def test_every_variant_acts_as_eager_does(bundle):
    assert all(build.status == "built" for build in bundle.builds.values()), bundle.builds
    found = first_gates(bundle, list(bundle.builds), met(3, 60), lambda name: None)
    assert {name: (found[name].status, found[name].reason) for name in found} == dict.fromkeys(
        bundle.builds, ("provisional", "")
    )
    golden = bundle.golden()
    assert golden.actions.shape == (30, 2)
    assert (np.abs(golden.actions) <= np.float32([2, 1])).all()
    assert (golden.actions[:, 1] >= 0).all()


def test_actions_follow_the_vector(bundle):
    golden = bundle.golden()
    with bundle.runner("onnx-fp32") as runner:
        before = runner.act({name: array[0] for name, array in golden.observations.items()}).action
        runner.reset()
        moved = {"frame": golden.observations["frame"][0], "joints": golden.observations["joints"][0] + 5}
        assert np.abs(runner.act(moved).action - before).max() > 1e-4


@pytest.mark.parametrize(
    "name", ["two actions swapped", "exploration left on", "history never updated", "history newest first"]
)
def test_faults_are_caught_where_actions_are_continuous_too(bundle, name):
    faults = [fault for fault in FAULTS if fault.name == name]
    found = inject.inject_faults(bundle, held_out=met(4, 100), pairs=0, faults=faults)
    assert found.passed, found.findings
    assert found.findings[0].tested
