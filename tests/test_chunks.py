"""A policy that plans ahead, from training to every gate: cartpole, four actions at once, two of them acted."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure.control_loop import ControlLoop
from benchmarks.measure.messages import Pace
from benchmarks.measure.protocol import Candidate, Measurement, Protocol
from benchmarks.measure.worker import paced, recorded, step
from benchmarks.report.plots.timeline import timeline
from benchmarks.report.rows import RowBuilder
from export import Bundle
from export.build import export
from export.bundle.manifest import read_manifest, schema_of
from export.verification.fault_injection.faults import FAULTS
from export.verification.fault_injection.inject import inject_faults
from export.verification.verify import verify
from tests import small_task
from tests.conftest import make_policy
from xfer import tasks
from xfer.models.torch_session import runner
from xfer.training import rounds
from xfer.training.run_folder import RunFolder
from xfer.training.train import train
from xfer.trajectories.chunks import acted

SMALL = {
    "weights": "none",
    "tap": "stem",
    "head": "flatten",
    "train_from": "head",
    "environments": 4,
    "frames": 400,
    "steps": 120,
    "rounds": 2,
    "eval_episodes": 2,
}


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "RECORDED", small_task.FEW)
        patch.setenv(tasks.TRUSTED, small_task.task().name)
        yield


@pytest.fixture(scope="module")
def run(small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "chunks"
    return train(small_task.task().name, horizon=4, execute=2, output=path, **SMALL).path


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory) -> Bundle:
    path = tmp_path_factory.mktemp("bundles") / "chunks.bundle"
    export(str(run), targets="eager,torchscript", output=path)
    return Bundle(path)


def test_training_gives_a_policy_that_plans_ahead_and_sees_frames_in_place_of_a_history(run):
    policy = RunFolder(run).policy()
    assert (policy.spec.action.horizon, policy.spec.action.execute) == (4, 2)
    assert policy.spec.states == ()
    assert policy.spec.observations[0].frames == 5  # three, two steps apart
    acts = runner(policy)
    held_out = RunFolder(run).observations("held-out")
    inferred = []
    for begins, observations in list(held_out.steps())[:6]:
        if begins:
            acts.reset()
        assert acts.act(observations).action.shape == ()
        inferred.append(acts.inferred)
    assert inferred == [True, False] * 3


def test_what_it_has_learned_is_better_than_chance(run):
    assert np.mean(RunFolder(run).result().returns) > 1.5 * small_task.task().reward.random_return


def test_all_gates_pass_for_its_variants(bundle):
    found = verify(bundle, pairs=2, workers=1, keep=False)
    assert found["eager-fp32"].status == "verified"
    assert found["eager-fp32"].agreement == 1.0
    assert (found["torchscript-fp32"].rung, found["torchscript-fp32"].pairs) == ("reward", 2), found
    assert found["torchscript-fp32"].status != "rejected"


def test_a_queue_or_frames_that_are_kept_too_long_and_a_chunk_that_is_off_by_one_are_caught_by_name(bundle):
    names = ("queue not emptied", "queue off by one", "frames not forgotten")
    found = inject_faults(bundle, pairs=0, faults=[fault for fault in FAULTS if fault.name in names])
    assert {finding.mistake: finding.caught_by for finding in found.findings} == dict.fromkeys(names, "numbers")
    said = {finding.mistake: finding.detail for finding in found.findings}
    for name in names[:2]:
        assert "What it infers is right: the runner's queue or frames are not" in said[name]
    assert found.passed


def test_its_manifest_has_a_schema_that_older_readers_refuse_and_no_others_has(bundle):
    assert read_manifest(bundle.path / "manifest.json").schema == (2, 0)  # libxfer and version 0.2.0 read 1.x
    assert schema_of(make_policy(task=small_task.task()).spec) == (1, 2)


def test_golden_holds_whole_chunks_and_the_frames_before_its_stretches(bundle):
    golden, spec = bundle.golden(), bundle.spec
    assert golden.actions.shape == (len(golden), 4)
    assert golden.scores.shape == (len(golden), 4, 2)
    assert golden.starts["frame"].shape == (len(golden.episodes()), 4, *spec.observations[0].shape)
    through = acted(golden, spec)
    first = golden.episodes()[0].start
    np.testing.assert_array_equal(through.scores[first + 1], golden.scores[first, 1])
    np.testing.assert_array_equal(through.scores[first + 2], golden.scores[first + 2, 0])


def test_a_bench_times_inferences_and_its_control_loop_acts_what_was_planned(bundle):
    steps, turns = recorded(bundle, 1), []
    with bundle.runner("torchscript-fp32") as acts:
        for _ in range(4):
            step(acts, steps)
            turns.append(acts.inferred)
        ticks = paced(acts, steps, Pace(1000, 0.02, gaps=((0.001, 3),)))
    assert turns == [True] * 4
    assert len(ticks.inferred) == len(ticks.latencies) == 20
    assert ticks.inferred in ((True, False) * 10, (False, True) * 10)
    loop = ControlLoop("x", 1000, 1.0, ticks.latencies, inferred=ticks.inferred)
    assert "an inference at 10" in timeline([loop])
    builds = {build.variant: build for build in bundle.manifest.builds}
    candidate, protocol = Candidate("eager-fp32", bundle.path, "eager-fp32"), Protocol(1)
    rows = RowBuilder(builds, {}, ["eager-fp32"], {}, [candidate], bundle.manifest.provenance, protocol, execute=2)
    row = rows.all({"eager-fp32": Measurement("eager-fp32", "eager-fp32", ((0.004,) * 100,))})[0]
    assert (row.execute, row.amortized_ms) == (2, pytest.approx(2.0))
