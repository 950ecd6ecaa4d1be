from dataclasses import replace

import pytest
import torch

from benchmarks.claims import training_speed

pytest.importorskip("stable_baselines3", reason="needs stable_baselines3: pip install 'xfer-policy[sb3]'")
pytest.importorskip("minigrid", reason="needs minigrid: pip install 'xfer-policy[navigation]'")


def test_the_picture_shows_the_whole_world():
    env = training_speed.make()
    frame = env.reset(seed=0)[0]["frame"]
    env.close()
    assert frame.shape == (84, 84, 3)
    assert (frame[4:80, 4:80].reshape(19, 4, 19, 4, 3).max(axis=(1, 3, 4)) > 0).sum() > 70  # walls, goal, agent


@pytest.mark.parametrize(("line", "trained"), [("head", 6 * 513), ("layer4", 8_396_806)])
def test_both_sides_are_the_same_network_and_both_learn(line, trained):
    config = replace(training_speed.settings(line, 0), environments=1, rollout_steps=8, num_minibatches=1)
    with training_speed.sides(config) as (ours, theirs):
        assert theirs.parameters == training_speed._parameters(ours) == (11_179_590, trained)
        assert training_speed._difference(ours, theirs) < 1e-4
        trunk = theirs.model.policy.features_extractor.trunk
        before = {name: value.clone() for name, value in trunk.state_dict().items()}
        assert min(theirs.turn()) > 0
        assert min(training_speed._turn(ours, torch.Generator())) > 0
        moved = {
            name.split(".")[0] for name, value in trunk.state_dict().items() if not torch.equal(value, before[name])
        }
        assert moved == ({"layer4"} if line == "layer4" else set())
        assert training_speed._difference(ours, theirs) > 1e-4  # they met other episodes
