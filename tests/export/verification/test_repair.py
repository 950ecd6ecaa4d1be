"""Policies that int8 spoils: which layers are left in float, and are they as few as can be?"""

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export import targets
from export.build import Builder
from export.bundle import records
from export.bundle.reader import Bundle
from export.bundle.record import Verification
from export.commands import export as export_command
from export.commands.console import repair_row
from export.importers import run
from export.targets import ExportOptions, ExportRequest, Variant
from export.verification.parity import first_gates
from export.verification.repair import search as repair
from export.verification.repair.bundle import is_proven, not_repairable, repair_bundle
from export.verification.repair.search import Trials, alternating_p50_ms, fewest
from tests import small_task
from tests.conftest import drive, imitation_config, make_policy, train_briefly
from xfer import tasks
from xfer.errors import UsageError
from xfer.models.checkpoint import save_policy
from xfer.models.torch_session import TorchSession
from xfer.runner import Runner
from xfer.training.run_config import RunConfig
from xfer.training.run_folder import RunFolder, RunResult

TASK = small_task.task()
BLOCK = "policy.trunk.layer1.0"
ONNX = Variant("onnx", "int8")


def make_hard(policy, factor=1000.0):
    """Scale one channel inside a residual block up, and what reads it down: the policy stays what it is."""
    block = policy.trunk.layer1[0]
    with torch.no_grad():
        block.bn1.weight[0] *= factor
        block.bn1.bias[0] *= factor
        block.conv2.weight[:, 0] /= factor


def acted(policy, observations):
    return observations.replay(Runner(TorchSession(policy.deploy(), policy.spec), policy.spec))


@pytest.fixture(scope="module", autouse=True)
def trusted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tasks.TRUSTED, TASK.name)
        yield


@pytest.fixture(scope="module")
def policy():
    policy = make_policy(task=TASK)
    train_briefly(policy, TASK, frames=1000, steps=250)
    return policy


@pytest.fixture(scope="module")
def met():
    return drive(5, 120, TASK)


@pytest.fixture(scope="module")
def golden():
    return drive(5, 24, TASK)


@pytest.fixture(scope="module")
def calibration():
    return drive(6, 64, TASK)


@pytest.fixture(scope="module")
def hard_run(policy, met, calibration, tmp_path_factory):
    """A run folder whose policy acts as the trained one does, and which int8 spoils."""
    hard = make_policy(task=TASK)
    hard.load_state_dict(policy.state_dict())
    make_hard(hard)
    np.testing.assert_allclose(acted(hard, met).scores, acted(policy, met).scores, atol=1e-5)
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "hard")
    folder.start(RunConfig(TASK.name, "none", hard.config, imitation_config()))
    calibration.save(folder.observations_file("calibration"))
    met.save(folder.observations_file("held-out"))
    save_policy(hard, folder.path)
    folder.finish(RunResult(1, 1.0, (9.0,)))
    return folder


def check_that_none_can_go_back(source, path, variant, kept, judged):
    request = ExportRequest(source.policy, source.policy.spec, source.calibration, ExportOptions())
    builder = Builder(request, lambda: source.held_out, path, run="nowhere")
    for layer in kept:
        builder.build(variant, tuple(other for other in kept if other != layer))
        fewer = first_gates(Bundle(path), [str(variant)], judged, lambda _: None)[str(variant)]
        assert (fewer.status, fewer.rung) == ("rejected", "actions"), layer


@pytest.mark.parametrize("name", ["onnx-int8", pytest.param("openvino-int8", marks=pytest.mark.slow)])
def test_a_policy_that_is_hard_to_quantize_is_repaired_with_as_few_layers_as_can_be(
    name, hard_run, tmp_path, one_thread
):
    variant = Variant.parse(name)
    if (reason := targets.load(variant.target).available()) is not None:
        pytest.skip(reason)
    source = run.load(hard_run.path)
    judged = acted(source.policy, source.held_out)
    path = tmp_path / "hard.bundle"

    def export(repair):
        args = export_command.Args(source=str(hard_run.path), targets=name, output=path, repair=repair)
        result = export_command.main(args)
        (exported,) = result["variants"]
        assert exported["status"] == "built"
        return exported["cached"], result.get("repairs")

    def verdict():
        return first_gates(Bundle(path), [name], judged, lambda _: None)[name]

    assert export(repair=False) == (False, None)
    before = verdict()
    assert (before.status, before.rung) == ("rejected", "actions"), before

    _, (row,) = export(repair=True)
    # What the first rounds away the second cannot make up for, and the other way round.
    kept = [f"{BLOCK}.conv1", f"{BLOCK}.conv2"]
    after, build = verdict(), Bundle(path).builds[name]
    assert after.status == "provisional", after
    assert row["status"] == records.load(Bundle(path))[name].verification.status == "provisional"
    assert (row["regret_before"], row["regret"]) == pytest.approx((before.regret, after.regret))
    assert row["float_layers"] == kept == list(build.options["float_layers"])
    assert build.notes == f"kept in float: {', '.join(kept)}"
    assert min(row["drift"].values()) > 0.5
    assert min(row["before_ms"], row["after_ms"]) > 0

    cached, (row,) = export(repair=True)
    assert cached
    assert row["float_layers"] == kept
    assert "drift" not in row  # nothing was searched
    assert export(repair=False) == (True, None)  # and it stays repaired

    check_that_none_can_go_back(source, path, variant, kept, judged)


class Made:
    """A bundle of one policy, and what made it."""

    def __init__(self, path, policy, calibration, golden):
        self.path, self.rebuilt = path, []
        self.request = ExportRequest(policy, policy.spec, calibration, ExportOptions())
        self.builder = Builder(self.request, lambda: golden, path, run="nowhere")

    def repair(self, held_out):
        def rebuild(variant, float_layers):
            self.rebuilt.append(float_layers)
            self.builder.build(variant, float_layers)

        (repaired,) = repair_bundle(self.path, self.request, [ONNX], held_out, rebuild)
        return repair_row(repaired)

    def verdict(self, judged):
        return first_gates(Bundle(self.path), [str(ONNX)], judged, lambda _: None)[str(ONNX)]


def set_verdict(path, verdict):
    """Make a verdict the one that is recorded, whatever there was."""
    shutil.rmtree(path / records.RECORDS, ignore_errors=True)
    records.save(Bundle(path), str(ONNX), verification=verdict)


@pytest.fixture(scope="module")
def rejected_by_reward(policy, golden, met, calibration, tmp_path_factory):
    """Makes copies of a bundle whose int8 passed the first two gates, and then lost reward."""
    made = Made(tmp_path_factory.mktemp("rejected") / "small.bundle", policy, calibration, golden)
    made.builder.build(ONNX)
    passed = made.verdict(acted(policy, met))
    assert passed.status == "provisional"

    def make(path, regret=passed.regret):
        shutil.copytree(made.path, path)
        set_verdict(path, Verification("rejected", rung="reward", reason="reward: it fell", regret=regret))
        return Made(path, policy, calibration, golden), regret

    return make


def test_what_the_reward_gate_rejected_is_repaired_until_it_has_half_the_regret(
    rejected_by_reward, policy, met, tmp_path, one_thread
):
    made, regret = rejected_by_reward(tmp_path / "small.bundle")
    row = made.repair(met)
    assert row["status"] == "provisional"
    assert made.rebuilt == [tuple(row["float_layers"])]
    assert row["float_layers"]
    assert made.verdict(acted(policy, met)).regret < regret / 2


@pytest.mark.parametrize(
    ("interval", "pairs", "status"),
    [((-15.2, 12.8), 20, "provisional"), ((-15.2, 12.8), 20, "rejected")],
    ids=["looks worse on few pairs", "was rejected without evidence by version 0.2.0"],
)
def test_what_looks_worse_without_evidence_starts_no_repair(
    interval, pairs, status, rejected_by_reward, met, tmp_path, one_thread
):
    made, _ = rejected_by_reward(tmp_path / "small.bundle")
    reason = "reward: looks worse (mean loss 2.50% of the scale over 20 pairs): 4,144 more pairs decide"
    verdict = Verification(status, "reward", reason, regret=0.0, pairs=pairs, reward_interval=interval)
    set_verdict(made.path, verdict)
    row = made.repair(met)
    assert (row["status"], row["reason"], row["float_layers"]) == (status, reason, [])
    assert "drift" not in row  # nothing was searched
    assert not made.rebuilt


def test_the_lower_bound_of_the_loss_is_evidence(rejected_by_reward, tmp_path):
    bundle = Bundle(rejected_by_reward(tmp_path / "small.bundle")[0].path)
    worse = Verification("rejected", "reward", pairs=60, reward_interval=(-15.2, -2.8))
    assert is_proven(worse, bundle)
    assert is_proven(Verification("rejected", "reward", "reward: in the episode of seed 3: not finite"), bundle)
    assert is_proven(Verification("rejected", "actions"), bundle)
    assert not is_proven(Verification("provisional", "reward", reward_interval=(-15.2, 12.8)), bundle)


def test_layers_are_chosen_by_episodes_that_do_not_judge(rejected_by_reward, met, tmp_path, one_thread, monkeypatch):
    """What the held-out observations refuse is out, and with it whatever leaves fewer layers in float."""
    judged_by = []
    gates = repair.run_gates

    def run_gates(bundle, session, variant, golden, reference, judged):
        held_out = np.array_equal(judged.observations["frame"], met.observations["frame"])
        judged_by.append("held-out" if held_out else "others")
        verdict = gates(bundle, session, variant, golden, reference, judged)
        first = held_out and judged_by.count("held-out") == 1
        return replace(verdict, status="rejected" if first else "provisional", regret=0.0)

    monkeypatch.setattr(repair, "run_gates", run_gates)
    monkeypatch.setattr(repair, "TURNS", 1)
    monkeypatch.setattr(Trials, "drift", lambda self, layer, eager: float(self.layers.index(layer)))
    made, _ = rejected_by_reward(tmp_path / "small.bundle")
    row = made.repair(met)
    assert judged_by.count("held-out") == 2
    assert judged_by.count("others") >= 2
    assert len(row["float_layers"]) >= 1


def test_a_bundle_that_no_choice_of_layers_repairs_stays_as_it_was(rejected_by_reward, met, tmp_path, one_thread):
    made, _ = rejected_by_reward(tmp_path / "small.bundle", regret=0.0)
    manifest = (made.path / "manifest.json").read_bytes()
    row = made.repair(met)
    assert (row["status"], row["reason"], row["float_layers"]) == ("rejected", "reward: it fell", [])
    assert row["drift"] is None
    assert not made.rebuilt
    assert (made.path / "manifest.json").read_bytes() == manifest


@given(st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_search_ends_with_a_set_that_passes_and_that_no_layer_can_leave(count, random):
    layers = "abcdef"[:count]
    sets = [frozenset(c) for n in range(count + 1) for c in itertools.combinations(layers, n)]
    enough = {kept for kept in sets if random.random() < 0.4}
    asked = []

    def passes(kept):
        asked.append(kept)
        return kept in enough

    found = fewest(layers, passes)
    assert len(asked) == len(set(asked))
    if found is None:
        assert not {frozenset(), frozenset(layers)} & enough
    else:
        assert found in enough
        assert not any(found - {layer} in enough for layer in found)


def test_the_search_asks_a_few_times_for_each_layer_that_stays():
    layers = [f"layer{i}" for i in range(20)]
    asked = []

    def passes(kept):
        asked.append(kept)
        return kept >= {"layer0", "layer1"}

    assert fewest(layers, passes) == {"layer0", "layer1"}
    assert len(asked) <= 10


def test_a_layer_alone_in_int8_drifts_and_none_in_int8_is_eager(policy, met, calibration, one_thread):
    trials = Trials(ExportRequest(policy, policy.spec, calibration, ExportOptions()), targets.load("onnx"))
    assert len(trials.layers) == 5  # the stem, and two blocks of two
    eager = acted(policy, met)
    for layer in trials.layers:
        assert 1e-3 < trials.drift(layer, eager) < 0.2
    with trials.session(trials.layers) as session:
        np.testing.assert_allclose(met.replay(Runner(session, policy.spec)).scores, eager.scores, atol=1e-4)
    with pytest.raises(UsageError, match=f"Did you mean '{BLOCK}.conv2'"), trials.session((f"{BLOCK}.conv",)):
        pass


@pytest.mark.timing
def test_timing_tells_a_slow_session_from_a_fast_one(policy, golden, one_thread):
    fast = TorchSession(policy.deploy(), policy.spec)

    class Twice:
        def step(self, observations, states):
            fast.step(observations, states)
            return fast.step(observations, states)

    once, twice = alternating_p50_ms((fast, Twice()), policy.spec, golden)
    assert 1.3 < twice / once < 3


def test_variants_that_it_cannot_repair_are_named():
    assert not_repairable(Variant("tensorrt", "int8")) == "--repair knows onnx-int8 and openvino-int8"


def test_builds_from_before_there_were_float_layers_keep_their_content_key():
    older = {"max_batch": 8, "compute_capabilities": ("80", "86", "89", "120")}
    assert ExportOptions().plain() == older
    assert ExportOptions(float_layers=("a",)).plain() == {**older, "float_layers": ("a",)}


def xfer(*words):
    answer = subprocess.run(
        [sys.executable, "-m", "xfer.cli", *map(str, words), "--json"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_trained_policy_made_hard_is_rejected_before_and_verified_after(tmp_path):
    path, names = tmp_path / "run", "onnx-int8,openvino-int8"
    xfer("train", "cartpole", "--weights", "none", "--output", path)
    hard = RunFolder(path).policy()
    make_hard(hard)
    save_policy(hard, path)
    bundle = Path(xfer("export", path, "--targets", f"eager,{names}")["bundle"])
    before = {row["variant"]: row for row in xfer("verify", bundle, "--variants", names, "--pairs", "0")["variants"]}
    repairs = {row["variant"]: row for row in xfer("export", path, "--targets", names, "--repair")["repairs"]}
    after = {row["variant"]: row for row in xfer("verify", bundle, "--variants", names, "--full")["variants"]}
    source = run.load(path)
    judged = acted(source.policy, source.held_out)
    for name in names.split(","):
        assert before[name]["status"] == "rejected"
        assert after[name]["status"] == "verified", after[name]
        kept = repairs[name]["float_layers"]
        assert len(kept) < repairs[name]["layers"]
        check_that_none_can_go_back(source, bundle, Variant.parse(name), kept, judged)
