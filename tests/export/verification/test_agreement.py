"""Verdicts on recordings: what a bundle without an environment can prove, by episode, and who takes it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.commands import recommend
from export import verify
from export.bundle import records
from export.bundle.manifest import Spreads
from export.bundle.reader import Bundle
from export.bundle.record import Verification
from export.verification import agreement
from export.verification.agreement import LIMIT, episode_losses, judge_recordings, step_losses
from tests.benchmarks.commands.test_recommend import LATENCY
from tests.chance_task import PUSH, REFERENCE, SAME, Sign, exchange, met, small_bundle
from xfer.errors import XferError
from xfer.trajectories import Trajectories

ENOUGH = 157
"""Episodes without a loss that prove one below 2 %."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("bundles") / "robot.bundle", task="", reward=None)


@pytest.fixture
def bundle(exported, tmp_path):
    return Bundle(shutil.copytree(exported.path, tmp_path / "robot.bundle"))


def rare_scenes(clean, rare):
    """Long episodes, and short ones in which the second joint is where nobody has seen it."""
    usual, unusual = met(clean, 20), met(rare, 1, seed=1)
    unusual.observations["joints"][:, 1] = 5.0
    joints = np.concatenate([usual.observations["joints"], unusual.observations["joints"]])
    return Trajectories({"joints": joints}, np.concatenate([usual.resets, unusual.resets]))


def recommended(bundle, **limits):
    for name, p50_ms in ((REFERENCE, 2.0), (SAME, 1.0)):
        records.save(bundle, name, latency=replace(LATENCY, p50_ms=p50_ms))
    return recommend.main(recommend.Args(bundle=bundle.path, **limits))


def test_a_variant_that_agrees_in_enough_recorded_episodes_can_be_recommended(bundle):
    found = verify(bundle, held_out=met(ENOUGH))[SAME]
    assert (found.status, found.rung, found.episodes) == ("provisional", "recordings", ENOUGH)
    assert found.agrees_on_recordings
    assert found.recordings_bound < LIMIT
    assert "reward not run: the spec names no task" in found.reason
    assert f"over {ENOUGH} recorded episodes" in found.reason
    for limits in ({}, {"allow_provisional": True, "deadline_ms": 1e-9}):
        with pytest.raises(XferError, match=r"No variant keeps the limits"):
            recommended(bundle, **limits)
    with pytest.raises(XferError, match=r"provisional: reward not run.*--on-recordings takes it"):
        recommended(bundle)
    best = recommended(bundle, on_recordings=True)
    assert best["variant"] == SAME
    assert "in agreement on recordings (mean action loss at most 1.9" in best["why"]
    assert "its rewards were not compared" in best["why"]


def test_too_few_episodes_say_how_many_more_it_takes(bundle):
    found = verify(bundle, held_out=met(2, 600))[SAME]  # 1,200 observations, that resemble each other
    assert (found.status, found.rung, found.episodes) == ("provisional", "recordings", 2)
    assert not found.agrees_on_recordings
    assert found.recordings_bound > 0.5
    assert f"{ENOUGH - 2} more clean ones needed" in found.reason
    assert recommended(bundle, on_recordings=True)["variant"] == REFERENCE


def test_episodes_that_are_recorded_again_and_again_count_once(bundle):
    few = met(20)
    again = few.take(few.episodes() * 10)
    found = verify(bundle, held_out=again)[SAME]
    assert (found.episodes, found.agrees_on_recordings, found.observations) == (20, False, 800)


def test_a_variant_that_goes_wrong_in_a_few_short_episodes_is_not_recommended_on_recordings(bundle):
    held_out = rare_scenes(ENOUGH, rare=8)
    worse = exchange(bundle, Sign(4.0))
    # 0.3 % of all observations: the actions gate of most precisions would let it pass.
    passed = {name: Verification("provisional", "actions", "no environment") for name in (REFERENCE, SAME)}
    found = agreement.run_gate(worse, passed, held_out)
    assert (found[SAME].rung, found[SAME].agrees_on_recordings) == ("recordings", False)
    assert found[SAME].recordings_bound > LIMIT
    for name, verification in found.items():
        records.save(worse, name, verification=verification)
    assert recommended(worse, on_recordings=True)["variant"] == REFERENCE


def test_the_recordings_gate_says_no_of_one_that_is_certainly_worse(bundle):
    provisional = verify(bundle, held_out=met(3))[SAME]
    worse = exchange(bundle, Sign(-9.0))
    found = agreement.run_gate(worse, {SAME: provisional}, met(40))[SAME]
    assert (found.status, found.rung, found.agrees_on_recordings) == ("rejected", "recordings", False)
    assert "recordings: mean action loss" in found.reason


def test_without_pairs_or_recordings_the_actions_gate_is_the_last(bundle):
    assert verify(bundle, held_out=met(ENOUGH), pairs=0)[SAME].rung == "actions"
    assert verify(bundle)[SAME].rung == "actions"


def test_the_reference_is_what_the_recording_says_where_it_says_so(bundle):
    held_out = met(ENOUGH)
    with bundle.runner(REFERENCE) as runner:
        recorded = held_out.replay(runner)
    backwards = replace(recorded, actions=1 - recorded.actions, scores=-recorded.scores)
    provisional = {SAME: Verification("provisional", "actions")}
    assert agreement.run_gate(bundle, provisional, recorded)[SAME].agrees_on_recordings
    assert agreement.run_gate(bundle, provisional, backwards)[SAME].status == "rejected"


def test_an_episode_counts_once_however_long_it_is():
    steps = np.concatenate([np.ones(2), np.zeros(98)])
    np.testing.assert_array_equal(episode_losses(steps, [slice(0, 2), slice(2, 100)]), [1.0, 0.0])


def test_a_loss_is_a_share_and_an_action_that_is_no_number_costs_all(exported):
    spec = replace(exported.spec, action=PUSH, score_kind="mean")
    reference = Trajectories({}, np.ones(4, bool), np.zeros((4, 2)), np.zeros((4, 2), np.float32))
    variant = replace(reference, actions=np.array([[0.0, 0.0], [0.2, 0.2], [np.nan, 0.0], [900.0, 0.0]]))
    np.testing.assert_allclose(
        step_losses(reference, variant, spec, Spreads((1.0, 1.0), (1.0, 1.0))), [0.0, 0.2, 1.0, 1.0]
    )


@pytest.mark.parametrize(("episodes", "agrees"), [(ENOUGH, True), (ENOUGH - 1, False), (1, False)])
def test_it_takes_as_many_clean_episodes_as_clean_pairs(episodes, agrees):
    assert (judge_recordings({"v": np.zeros(episodes)})["v"].status == "verified") == agrees
