"""Planted mistakes, with hashes recomputed where a person's tool would have: which gate catches each?"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from export.bundle.manifest import MANIFEST, FileFact
from export.bundle.reader import Bundle
from export.bundle.spreads import measure_spreads
from export.bundle.writer import file_facts
from export.onnx_graph import export_onnx
from export.quantize import quantize_int8
from export.verification import parity, tolerances
from export.verification.parity import first_gates
from tests.conftest import make_policy, train_briefly
from xfer.files import sha256, write_atomically
from xfer.models.torch_session import TorchSession
from xfer.runner import Runner
from xfer.trajectories import Trajectories


def rehash(path):
    """Write the manifest anew, so that the bundle's files are what it says."""
    bundle = Bundle(path)
    builds = tuple(
        replace(build, files=file_facts(path / build.folder)) if build.status == "built" else build
        for build in bundle.manifest.builds
    )
    golden = path / "golden.safetensors.gz"
    fact = FileFact(golden.stat().st_size, sha256(golden))
    write_atomically(path / MANIFEST, replace(bundle.manifest, builds=builds, golden=fact).encode())


def plant(path, module, variant="onnx-fp32"):
    """Put another graph where a variant's is."""
    export_onnx(module, path / Bundle(path).builds[variant].folder / "policy.onnx")
    rehash(path)


def verdict(path, variant, held_out):
    return first_gates(Bundle(path), [variant], held_out, lambda name: None)[variant]


@pytest.mark.parametrize("variant", ["eager-fp32", "torchscript-fp32", "onnx-fp32", "onnx-int8"])
def test_untouched_variants_pass_the_first_two_rungs(shared_bundle, met, variant):
    found = verdict(shared_bundle, variant, met)
    assert found.status == "provisional", found.reason
    assert found.rung == "actions"
    assert found.agreement > 0.9
    assert found.observations == len(met)


def red_and_blue_swapped(module):
    module.policy.preprocess.weight = (
        module.policy.preprocess.weight.reshape(1, 1, 4, 4, 3).flip(-1).reshape(1, 1, 4, 12)
    )
    return module


def normalization_left_out(module):
    module.policy.preprocess.weight = module.policy.preprocess.weight * 0.226
    module.policy.preprocess.bias = torch.zeros(1)
    return module


def history_one_step_late(module):
    class Late(type(module)):
        def forward(self, frame, *states):
            action, scores, after = super().forward(frame, *states)
            # The newest frame is left out: it enters the history a step after it should, if at all.
            return action, scores, torch.cat([after[:, :-1], states[0][:, -1:]], dim=1)

    module.__class__ = Late
    return module


@pytest.mark.parametrize("mistake", [red_and_blue_swapped, normalization_left_out, history_one_step_late])
def test_numbers_gate_catches(bundle_path, policy, met, mistake):
    plant(bundle_path, mistake(policy.deploy()))
    found = verdict(bundle_path, "onnx-fp32", met)
    assert (found.status, found.rung) == ("rejected", "numbers"), found
    assert "golden step" in found.reason


def test_numbers_gate_catches_weights_of_another_checkpoint(bundle_path, met):
    other = make_policy(seed=1)
    train_briefly(other, seed=1)
    plant(bundle_path, other.deploy())
    found = verdict(bundle_path, "onnx-fp32", met)
    assert (found.status, found.rung) == ("rejected", "numbers")


def test_numbers_gate_catches_a_history_that_is_not_reset(shared_bundle, golden):
    class Stale:
        """Remembers its own states, and takes no zeros from outside."""

        def __init__(self, session):
            self.session, self.states = session, {}

        def step(self, observations, states):
            step = self.session.step(observations, self.states or states)
            self.states = step.states
            return step

    bundle = Bundle(shared_bundle)
    with bundle.session("onnx-fp32") as session:
        assert not parity.numbers(session, bundle.spec, bundle.golden(), "fp32", 1).failure
        assert "numbers" in parity.numbers(Stale(session), bundle.spec, bundle.golden(), "fp32", 1).failure


def test_numbers_gate_catches_rows_of_a_batch_that_are_mixed_up(shared_bundle):
    class Mixed:
        def __init__(self, session):
            self.session = session

        def step(self, observations, states):
            step = self.session.step(observations, states)
            return step._replace(states={name: np.roll(state, 1, axis=0) for name, state in step.states.items()})

    bundle = Bundle(shared_bundle)
    with bundle.session("onnx-fp32") as session:
        assert "batch 3" in parity.numbers(Mixed(session), bundle.spec, bundle.golden(), "fp32", None).failure


def test_numbers_gate_catches_two_actions_swapped(bundle_path, policy, met):
    class Swapped(type(policy.deploy())):
        def forward(self, frame, *states):
            action, *others = super().forward(frame, *states)
            return 1 - action, *others

    module = policy.deploy()
    module.__class__ = Swapped
    plant(bundle_path, module)
    found = verdict(bundle_path, "onnx-fp32", met)
    assert (found.status, found.rung) == ("rejected", "numbers")
    assert "has the higher score" in found.reason


def test_actions_gate_catches_int8_that_was_calibrated_on_noise(bundle_path, policy, met):
    rng = np.random.default_rng(0)
    noise = Trajectories({"frame": rng.integers(0, 256, (8, 400, 600, 3), np.uint8)}, np.ones(8, bool))
    folder = bundle_path / Bundle(bundle_path).builds["onnx-int8"].folder
    export_onnx(policy.deploy(), bundle_path / "float.onnx")
    quantize_int8(bundle_path / "float.onnx", folder / "policy.onnx", policy.spec, noise, symmetric=False)
    rehash(bundle_path)
    found = verdict(bundle_path, "onnx-int8", met)
    assert (found.status, found.rung) == ("rejected", "actions"), found


def test_golden_of_another_policy_fails_eager_and_is_blamed(bundle_path, golden):
    other = make_policy(seed=1)
    golden.replay(Runner(TorchSession(other.deploy(), other.spec), other.spec)).save(
        bundle_path / "golden.safetensors.gz"
    )
    rehash(bundle_path)
    found = verdict(bundle_path, "eager-fp32", None)
    assert found.status == "rejected"
    assert "Golden is not from this policy" in found.reason


def test_a_reference_that_depends_on_its_batch_is_not_blamed_on_golden(shared_bundle, golden):
    """As bundles of before the fidelity gate may hold."""
    bundle = Bundle(shared_bundle)

    class Mixes:
        def __init__(self, session):
            self.session = session

        def step(self, observations, states):
            made = self.session.step(observations, states)
            return made._replace(scores=made.scores + np.arange(len(made.scores))[:, None] * [1.0, -1.0])

    with bundle.session("eager-fp32") as session:
        variant = parity.Variant.parse("eager-fp32")
        found = parity.run_gates(bundle, Mixes(session), variant, bundle.golden(), bundle.golden(), bundle.golden())
    assert found.status == "rejected"
    assert "(batch 3, row 1). Alone it gives what golden holds: its answer depends on the other rows" in found.reason
    assert "exchanged" not in found.reason


def test_scores_that_are_not_finite_are_rejected(bundle_path, policy, met):
    module = policy.deploy()
    module.policy.head[-1].bias.data[0] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plant(bundle_path, module)
    found = verdict(bundle_path, "onnx-fp32", met)
    assert found.status == "rejected"
    assert "not finite" in found.reason


def test_a_flip_at_a_tie_costs_nothing_and_a_clear_mistake_its_margin(policy):
    scores = np.array([[0.0, 1e-9], [-1.0, 1.0]], np.float32)
    spec = replace(policy.spec, score_kind="logits")
    loss = tolerances.regret(
        scores, np.array([0, 0]), spec, measure_spreads([Trajectories({}, np.ones(2), None, scores)], spec)
    )
    assert loss[0] < 1e-6
    assert loss[1] == pytest.approx((np.e - 1 / np.e) / (np.e + 1 / np.e), rel=1e-5)


def test_variants_that_cannot_run_here_say_so(bundle_path, met, monkeypatch):
    from export.targets import onnx

    monkeypatch.setattr(onnx, "runnable", lambda place: "onnxruntime is not installed: pip install it")
    found = verdict(bundle_path, "onnx-fp32", met)
    assert found.status == "built"
    assert "pip install" in found.reason
