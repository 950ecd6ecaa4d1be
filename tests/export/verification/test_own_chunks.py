"""Somebody's own policy that plans ahead: its own runtime's actions, every gate, and what has no notion of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import Bundle, Deployable
from export.build import export
from export.bundle.spreads import measure_spreads
from export.formats import leapp
from export.importers import ImportOptions
from export.verification.parity import actions, compare
from export.verification.parity.play import play_queue, queue_steps
from export.verification.verify import verify
from xfer.errors import FidelityError, UsageError
from xfer.models.torch_session import TorchSession
from xfer.runner import Runner
from xfer.spec import ActionSpec, PolicySpec, TensorSpec
from xfer.trajectories import Trajectories
from xfer.trajectories.chunks import acted

HORIZON = 5
TORQUES = ActionSpec("continuous", ("shoulder", "elbow"), "N m", (-1.0, -1.0), (1.0, 1.0), horizon=HORIZON)
JOINTS = TensorSpec("joints", "float32", (4,))
ENSEMBLED = PolicySpec("", 50.0, (replace(JOINTS, frames=3),), (), replace(TORQUES, ensemble=0.1), "mean")
QUEUED = replace(ENSEMBLED, observations=(JOINTS,), action=replace(TORQUES, execute=3))


class Planner(nn.Module):
    """Plans with one layer what it does of what it sees."""

    def __init__(self, frames):
        super().__init__()
        torch.manual_seed(0)
        self.plan = nn.Linear(4 * frames, HORIZON * 2)

    def forward(self, joints):
        scores = self.plan(joints.flatten(1)).reshape(-1, HORIZON, 2)
        return scores.clamp(-1, 1), scores


def ensembled():
    return Deployable(Planner(3), ENSEMBLED)


def queued():
    return Deployable(Planner(1), QUEUED)


def seen(episodes, length):
    walk = np.random.default_rng(0).standard_normal((episodes * length, 4)).astype(np.float32)
    return Trajectories({"joints": walk}, np.arange(len(walk)) % length == 0)


def by_their_runtime(whole, make, shift=0):
    """What a robot's own loop would have acted: chunks by the module, and the rule written out, tick by tick."""
    policy = make()
    action, frames = policy.spec.action, policy.spec.observations[0].frames
    found, joints = [], whole.observations["joints"]
    for part in whole.episodes():
        chunks = []
        for t in range(part.start, part.stop):
            last = np.stack([joints[max(part.start, t - age)] for age in range(frames - 1, -1, -1)])
            fed = torch.from_numpy(last if frames > 1 else last[0])[None]
            with torch.no_grad():
                chunks.append(policy.module(fed)[0][0].numpy())
            now = t - part.start
            if action.ensemble is None:
                found.append(chunks[now - now % action.execute][now % action.execute + shift])
            else:
                oldest = max(0, now - HORIZON + 1)
                plans = np.array([chunks[then][now - then] for then in range(oldest, now + 1)], float)
                weights = np.exp(-action.ensemble * np.arange(len(plans)))[:, None]
                found.append((weights * plans).sum(0) / weights.sum() + shift)
    return replace(whole, actions=np.array(found, np.float32))


def exported(make, whole, tmp_path):
    met = tmp_path / "met.safetensors.gz"
    whole.save(met)
    export(make(), "eager,torchscript", tmp_path / "own.bundle", importing=ImportOptions(observations=met))
    return Bundle(tmp_path / "own.bundle")


@pytest.mark.parametrize(("make", "episodes", "length"), [(ensembled, 4, 40), (queued, 4, 40), (queued, 1, 150)])
def test_a_policy_whose_own_runtime_acted_the_same_is_exported_and_passes_every_gate(make, episodes, length, tmp_path):
    bundle = exported(make, by_their_runtime(seen(episodes, length), make), tmp_path)
    found = verify(bundle, keep=False)
    assert [(one.status, one.agreement) for one in found.values()] == [("provisional", 1.0)] * 2, found
    assert bundle.golden().actions.shape[1:] == (HORIZON, 2)


@pytest.mark.parametrize("make", [ensembled, queued])
def test_recorded_actions_that_are_another_moments_are_refused(make, tmp_path):
    with pytest.raises(FidelityError, match="the recorded actions are not the module's at step 0 of episode 1"):
        exported(make, by_their_runtime(seen(4, 40), make, shift=1), tmp_path)


def test_a_recording_that_is_cut_inside_an_episode_is_compared_up_to_where_the_plan_is_lost(tmp_path):
    whole = by_their_runtime(seen(1, 150), ensembled)
    exported(ensembled, whole, tmp_path)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("execute", [1, 2, 5])
def test_the_queue_of_the_gate_outlasts_every_chunk_and_each_inference_has_its_own_frames(frames, execute):
    spec = replace(QUEUED, observations=(replace(JOINTS, frames=frames),), action=replace(TORQUES, execute=execute))
    shown = queue_steps(slice(10, 16), replace(spec, action=replace(spec.action, horizon=40, execute=8 * execute)))
    assert len(shown) >= 8 * execute + 2
    for tick in range(0, len(shown), 8 * execute):
        context = [shown[max(0, tick - age)] for age in range(frames)]
        assert context == [max(10, shown[tick] - age) for age in range(frames)]


def test_a_chunk_longer_than_its_stretch_is_acted_to_its_end_and_renewed_in_time():
    spec = replace(QUEUED, action=replace(TORQUES, execute=5))
    policy = Deployable(Planner(1), spec)
    session = TorchSession(policy.deploy(), spec)
    golden = seen(3, 4).replay(Runner(session, spec))
    for batch in (1, 3):
        for _, due, through in play_queue(session, spec, golden, batch):
            np.testing.assert_allclose(through.actions, due.actions, atol=1e-6)
            assert len(through) == 3 * 7


def chunks(rng, rows=400):
    scores = rng.standard_normal((rows, HORIZON, 2)).astype(np.float32)
    return Trajectories({}, np.arange(rows) % 40 == 0, scores.clip(-1, 1), scores)


def test_an_error_in_one_action_of_the_chunk_alone_is_not_hidden_by_the_others():
    right = chunks(np.random.default_rng(0))
    wrong = right.actions.copy()
    wrong[::10, 4, 1] *= -1
    found = actions(right, replace(right, actions=wrong), QUEUED, "int8")
    assert "mean difference of 'elbow' as a share of its scale in action 4 of its chunk" in found.failure
    assert found.observations == 400
    assert "action 4 of its chunk" in found.worst[0]
    scores = right.scores.copy()
    scores[7, 4, 1] += 0.1
    spreads = measure_spreads([right], QUEUED)
    said = compare(right, replace(right, scores=scores), QUEUED, spreads, "fp32", "step {step}").failure
    assert "score of 'elbow' differs by 0.1" in said
    assert "at step 7, action 4 of its chunk" in said


def test_what_is_acted_of_chunks_is_what_the_rule_says():
    made = chunks(np.random.default_rng(0), rows=80)
    through = acted(made, QUEUED)
    np.testing.assert_array_equal(through.actions[:4], [*made.actions[0, :3], made.actions[3, 0]])
    np.testing.assert_array_equal(through.actions[40:42], made.actions[40, :2])  # an episode begins there
    mean = acted(made, replace(QUEUED, action=replace(TORQUES, ensemble=0.5)))
    np.testing.assert_allclose(mean.actions[0], made.actions[0, 0])
    weights = np.array([[1.0], [np.exp(-0.5)]])
    both = np.stack([made.actions[0, 1], made.actions[1, 0]])
    np.testing.assert_allclose(mean.actions[1], (weights * both).sum(0) / weights.sum(), rtol=1e-5)


def test_a_format_without_a_notion_of_chunks_refuses_them(tmp_path):
    bundle = exported(queued, seen(4, 40), tmp_path)
    with pytest.raises(UsageError, match=r"leapp has no notion of action chunks \(horizon 5\).* Use --format xfer"):
        leapp.write(Path("out.leapp"), bundle, bundle.build("torchscript-fp32"))


class OneAction(Planner):
    def forward(self, joints):
        return tuple(out[:, 0] for out in super().forward(joints))


def forgot():
    return Deployable(OneAction(1), QUEUED)


def test_a_module_that_gives_one_action_where_its_spec_says_chunks_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"The module gives float32 \[2, 2\].* its spec says float32 \[2, 5, 2\]"):
        exported(forgot, seen(4, 40), tmp_path)
