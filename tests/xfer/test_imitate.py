import numpy as np
import pytest
import torch

from tests.conftest import imitation_config, make_policy, train_briefly
from xfer import imitate, tasks


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def frames():
    config = imitation_config(frames=64)
    return imitate.collect(tasks.load("cartpole"), make_policy(tap="stem"), config, 0, "cpu", lambda count: None)


def fit(policy, frames, **changes):
    config = imitation_config(**{"steps": 6, "batch_size": 16, **changes})
    lower, _ = policy.split(config.train_from)
    crossed = imitate.features(lower, frames.seen, "cpu")
    policy.fit_standardize(config.train_from, crossed)
    return [loss for _, _, loss in imitate.fit(policy, crossed, frames.expert, config, 0, "cpu")]


@pytest.mark.parametrize("train_from", ["head", "layer1"])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_lies_below_the_line_does_not_move(frames, train_from, compiled):
    policy = make_policy(tap="layer1")
    before = snapshot(policy.trunk)
    fit(policy, frames, train_from=train_from, compile=compiled)
    moved = {
        name.split(".")[0] for name, value in policy.trunk.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == ({"layer1"} if train_from == "layer1" else set())
    assert not any("_orig_mod" in name for name in policy.state_dict())


def test_all_means_that_everything_moves(frames):
    policy = make_policy(tap="layer1")
    before = snapshot(policy)
    fit(policy, frames, train_from="all")
    still = [name for name, p in policy.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("head", ["spatial-softmax", "flatten", "average"])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_every_head_learns_with_every_loss(frames, head, loss):
    policy = make_policy(tap="stem", head=head, loss=loss)
    config = {"loss": loss, "steps": 100, "learning_rate": 1e-3 if head == "flatten" else 1e-2}
    before, after = fit(policy, frames, **config)
    assert after < before


@pytest.mark.parametrize("changes", [{"optimizer": "sgd", "learning_rate": 1e-3}, {"amp": "bf16"}])
def test_optimisers_and_precisions_learn(frames, changes):
    losses = fit(make_policy(tap="stem", head="average"), frames, steps=150, **changes)
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    weights = []
    for seed in (0, 0, 1):
        policy = make_policy(tap="stem", seed=seed)
        train_briefly(policy, frames=40, steps=10, seed=seed)
        weights.append(policy.state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert any(not torch.equal(weights[0][k], weights[2][k]) for k in weights[0])


def test_the_cut_network_computes_what_the_whole_one_does():
    policy = make_policy(tap="layer2")
    seen = torch.rand(2, 3, 40, 150)
    with torch.no_grad():
        for line in ("all", "layer1", "layer2", "head"):
            lower, upper = policy.split(line)
            torch.testing.assert_close(upper(lower(seen)), policy.scores(seen))


def test_history_starts_from_zeros_after_an_episode_ends():
    """The first frames of an episode that began during collection are those of a fresh one."""
    policy = make_policy(tap="stem")
    frames = imitate.collect(
        tasks.load("cartpole"),
        policy,
        imitation_config(frames=120, environments=1, expert_noise=1.0),
        0,
        "cpu",
        lambda count: None,
    )
    empty = (frames.seen[:, :2] == 0).all(dim=(2, 3))
    begun = np.flatnonzero(empty.all(dim=1).numpy())
    assert begun[0] == 0
    assert len(begun) > 2 * policy.config.image.frame_step  # several episodes, each with `frame_step` empty histories


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_training_on_cuda_with_compile_and_amp_learns(frames, amp):
    policy = make_policy(tap="layer1").to("cuda")
    config = imitation_config(steps=100, batch_size=16, train_from="layer1", amp=amp, compile=True)
    lower, _ = policy.split("layer1")
    crossed = imitate.features(lower, frames.seen, "cuda")
    policy.fit_standardize("layer1", crossed.to("cuda"))
    losses = [loss for _, _, loss in imitate.fit(policy, crossed, frames.expert, config, 0, "cuda")]
    assert losses[-1] < losses[0]
