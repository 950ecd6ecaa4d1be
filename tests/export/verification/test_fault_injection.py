"""The gates' own test: is every planted fault caught, by which gate, and would it be missed without that gate?"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from export.build import export_policy
from export.bundle.manifest import MANIFEST, Manifest
from export.bundle.reader import Bundle
from export.commands import verify
from export.commands.console import fault_summary
from export.targets import expand
from export.verification import parity
from export.verification.fault_injection import faults
from export.verification.fault_injection import graphs as faulty_graphs
from export.verification.fault_injection import inject as injection
from export.verification.fault_injection.faults import FAULTS, Fault
from export.verification.held_out import held_out_observations
from export.verification.verify import verify as verify_bundle
from tests.conftest import make_policy, train_briefly
from xfer.errors import RunError
from xfer.files import from_json, write_atomically
from xfer.models.policy import Deployed
from xfer.spec import RewardScale
from xfer.trajectories import Trajectories

BY_NAME = {fault.name: fault for fault in FAULTS}

ALONE = {
    "loading": "manifest edited",
    "numbers": "batch rows mixed up",
    "actions": "int8 with garbled actions",
    "reward": "frame buffer full",
}
"""For each gate a fault that no other sees."""


def fingerprint(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def without(gate, path, monkeypatch):
    """Switch a gate off, for a copy at ``path`` that is damaged already."""
    if gate == "loading":  # what is not checked may as well be right
        manifest = from_json((path / MANIFEST).read_bytes(), Manifest)
        write_atomically(path / MANIFEST, manifest.encode())
    elif gate == "numbers":
        monkeypatch.setattr(parity, "numbers", lambda *args: parity.Numbers(0.0, None))
    elif gate == "actions":
        monkeypatch.setattr(parity, "actions", lambda *args: parity.Actions(1.0, 0.0, 1, ()))


def assert_only_this_gate_catches(gate, bundle, held_out, pairs, path, monkeypatch):
    """Plant the gate's own mistake: it is caught, and is not once the gate is off. ``held_out`` is acted by eager."""
    fault = BY_NAME[ALONE[gate]]
    injection.copy_bundle(bundle, (bundle.reference, *fault.needs), path)
    fault.damage(path)
    variant = fault.variant or bundle.reference
    verdicts = partial(verify_bundle, held_out=held_out, workers=2, keep=False)
    caught, detail = injection.catch(path, variant, partial(verdicts, pairs=pairs))
    print(f"{fault.name}: caught by {caught}: {detail}")
    assert caught == gate
    without(gate, path, monkeypatch)
    pairs = 0 if gate == "reward" else pairs
    assert injection.catch(path, variant, partial(verdicts, pairs=pairs))[0] == ""


def inject(bundle, held_out, pairs, faults):
    return injection.inject_faults(bundle, held_out=held_out, pairs=pairs, workers=1, faults=faults)


@pytest.fixture(scope="module")
def seen(shared_bundle, met):
    """Observations with what eager does, four times over: faults at random must have their chance."""
    with Bundle(shared_bundle).runner("eager-fp32") as runner:
        acted = met.replay(runner)
    return acted.take(acted.episodes() * 4)


def test_there_are_at_least_fifteen_faults_of_different_names():
    assert len(BY_NAME) == len(FAULTS) >= 15


@pytest.fixture(scope="module")
def lasting(met, tmp_path_factory) -> tuple[Bundle, Trajectories]:
    """A policy that lasts some 60 steps, and short stretches of held-out observations with what it does there."""
    policy = make_policy()
    train_briefly(policy, frames=1000, steps=250)
    path = tmp_path_factory.mktemp("bundles") / "lasting.bundle"
    golden, held_out = (met.take([slice(e.start, e.start + n) for e in met.episodes()]) for n in (8, 9))
    # A scale that such a policy can reach, so that falling early is a great loss.
    spec = replace(policy.spec, reward=RewardScale(0.0, 60.0))
    export_policy(policy, spec, golden, golden, expand("eager,torchscript"), path, run="nowhere")
    with Bundle(path).runner("eager-fp32") as runner:
        return Bundle(path), held_out.replay(runner)


@pytest.mark.parametrize("gate", ["loading", "numbers", "reward"])
def test_without_a_gate_its_own_fault_passes_all_others(gate, lasting, tmp_path, monkeypatch):
    monkeypatch.setattr(faulty_graphs, "SLOTS", 10)  # the stretches here have 9 frames
    pairs = 40 if gate == "reward" else 4  # which rejects only with evidence
    assert_only_this_gate_catches(gate, *lasting, pairs, tmp_path / "copy", monkeypatch)


def test_without_the_actions_gate_its_own_fault_passes_those_below(shared_bundle, seen, tmp_path, monkeypatch):
    # That it passes reward needs a policy that stands a wrong action now and then: see the slow test.
    assert_only_this_gate_catches("actions", Bundle(shared_bundle), seen, 0, tmp_path / "copy", monkeypatch)


def test_faults_of_each_kind_are_caught_in_copies_and_the_bundle_is_not_touched(shared_bundle, met):
    before = fingerprint(shared_bundle)
    expected = {
        "red and blue swapped": "numbers",
        "history not reset": "numbers",
        "normalizer goes on learning": "numbers",
        "two actions swapped": "numbers",
        "int8 calibrated on noise": "actions",
        "golden of another policy": "numbers",
        "file truncated": "loading",
        "file exchanged": "loading",
    }
    result = inject(Bundle(shared_bundle), met, 0, faults=[BY_NAME[name] for name in expected])
    assert {finding.mistake: finding.caught_by for finding in result.findings} == expected
    assert all(finding.detail and finding.what for finding in result.findings)
    assert result.passed
    assert result.rejected == []
    details = {finding.mistake: finding.detail for finding in result.findings}
    assert re.search("golden step (8|9|1[0-9]|2[0-9])", details["history not reset"]), "the first episode is right"
    assert "Golden is not from this policy" in details["golden of another policy"]
    assert "truncated" in details["file truncated"]
    assert fingerprint(shared_bundle) == before


def test_a_fault_that_only_reward_can_see_is_not_called_caught_or_passed_where_reward_is_off(lasting):
    nothing_wrong = Fault("nothing wrong", "It is the policy itself.", faults.in_graph(Deployed))
    no_such = Fault("no such state", "It needs what is not there.", nothing_wrong.damage, needs=("memory",))
    result = inject(*lasting, 0, faults=[nothing_wrong, no_such])
    assert [finding.tested for finding in result.findings] == [False, False]
    assert "--pairs 0" in result.findings[0].detail
    assert "no memory" in result.findings[1].detail
    assert "2 could not be tested here" in fault_summary(result)


def test_a_fault_that_is_let_through_fails_the_self_test(lasting, monkeypatch):
    monkeypatch.setattr(injection, "FAULT_PAIRS", 1)
    nothing_wrong = Fault("nothing wrong", "It is the policy itself.", faults.in_graph(Deployed))
    result = inject(*lasting, 1, faults=[nothing_wrong])
    assert not result.passed
    assert result.let_through == ["nothing wrong"]
    assert "let through: nothing wrong" in fault_summary(result)


def test_an_untouched_bundle_that_is_rejected_fails_the_self_test(bundle_path, met):
    faults.golden_of_another(bundle_path)
    result = inject(Bundle(bundle_path), met, 0, faults=[])
    assert not result.passed
    assert "eager-fp32" in result.rejected


def test_without_the_run_the_self_test_says_what_it_needs(shared_bundle):
    with pytest.raises(RunError, match="needs the held-out observations"):
        verify.main(verify.Args(bundle=shared_bundle, inject_faults=True))


def xfer(*words):
    answer = subprocess.run(
        [sys.executable, "-m", "xfer.cli", *map(str, words), "--json"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "cartpole"
    xfer("train", "cartpole", "--weights", "none", "--output", run)
    return Path(xfer("export", run, "--targets", "eager,torchscript,onnx-fp32,onnx-int8")["bundle"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_on_a_trained_policy_every_fault_is_caught_within_five_minutes(trained):
    result = xfer("verify", trained, "--inject-faults")
    assert result["passed"], result
    missed = [finding["mistake"] for finding in result["self_test"] if not (finding["tested"] and finding["caught_by"])]
    assert missed == ["cameras swapped", "camera ignored"]  # there is one camera
    assert len(result["self_test"]) == len(FAULTS)
    assert result["seconds"] < 300


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("gate", ALONE)
def test_no_gate_is_decoration(gate, trained, tmp_path, monkeypatch):
    bundle = Bundle(trained)
    held_out, _ = held_out_observations(bundle)
    with bundle.runner(bundle.reference) as runner:
        held_out = held_out.replay(runner)
    assert_only_this_gate_catches(gate, bundle, held_out, injection.MAX_PAIRS, tmp_path / "copy", monkeypatch)
