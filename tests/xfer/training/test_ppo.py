import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from tests.xfer.training import toys
from xfer.errors import ScoresError, UsageError
from xfer.models.config import PolicyConfig
from xfer.models.contract import make_spec
from xfer.models.policy import Policy
from xfer.training import ppo
from xfer.training.config import PPOConfig
from xfer.training.learners import kept_bytes
from xfer.training.run_config import RunConfig
from xfer.training.vector_env import vector_env


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ppo_config(**changes) -> PPOConfig:
    defaults = {
        "total_frames": 768,
        "rounds": 1,
        "environments": 4,
        "rollout_steps": 16,
        "update_epochs": 2,
        "num_minibatches": 2,
        "learning_rate": 1e-2,
        "anneal_lr": False,
        "gamma": 0.9,
        "gae_lambda": 0.9,
        "clip_coef": 0.2,
        "norm_adv": True,
        "clip_vloss": False,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "target_kl": 0.0,
        "reward_scale": 1.0,
        "train_from": "head",
        "amp": "off",
        "compile": False,
        "seed": 0,
    }
    return PPOConfig(**{**defaults, **changes})


def make_policy(task, seed=0, tap="stem", head="spatial-softmax", hidden=()):
    torch.manual_seed(seed)
    policy = Policy(
        PolicyConfig("resnet18", tap, head, 16, task.image, hidden), make_spec(task, task.image, "logits")
    ).eval()
    ppo.initialize(policy.readout, 0.01)
    return policy


def run(task, config, policy=None, rounds=1):
    """Train, and return the policy, the trainer and what each update measured."""
    policy = policy or make_policy(task)
    with vector_env(task, config.environments, "sync") as envs:
        trainer = ppo.Trainer(policy, envs, config, "cpu")
        measures = [measure for index in range(rounds) for measure in trainer.round(index)]
    return policy, trainer, measures


def constant_critic(trainer, value):
    with torch.no_grad():
        trainer.agent.critic.weight.zero_()
        trainer.agent.critic.bias.fill_(value)


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before, module):
    return {name.split(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_advantages_are_those_of_the_equation():
    torch.manual_seed(0)
    rewards, values, next_values = torch.randn(3, 7, 2)
    ended = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0], [0, 1], [0, 0], [0, 0]], dtype=torch.float32)
    gamma, lam = 0.9, 0.8
    advantages = ppo.gae(rewards, values, next_values, ended, gamma, lam)
    for env in range(2):
        for start in range(7):
            expected, weight = 0.0, 1.0
            for step in range(start, 7):
                expected += weight * float(rewards[step, env] + gamma * next_values[step, env] - values[step, env])
                weight *= gamma * lam
                if ended[step, env]:
                    break
            assert advantages[start, env].item() == pytest.approx(expected, abs=1e-5)


def test_collected_advantages_end_where_episodes_do():
    """Worked out by hand: gamma = lambda = 1/2, every value is 2, rewards are 1, 2, 3, and each step is a real one.

    delta of a step within an episode:       r + 1/2 * 2 - 2 = r - 1: 0, 1
    of one that terminates:                  3 + 0 - 2       = 1
    of one that a time limit cuts:           3 + 1/2 * 2 - 2 = 2
    advantages, backwards with 1/4 of the next:
      the episode that terminates:           1;  1 + 1/4 = 1.25;  0 + 1.25/4 = 0.3125
      the episode that is truncated:         2;  1 + 2/4 = 1.5;   0 + 1.5/4  = 0.375
      the one that is still running:         0
    """
    task = toys.script()
    config = ppo_config(environments=1, rollout_steps=7, num_minibatches=1, total_frames=14, gamma=0.5, gae_lambda=0.5)
    with vector_env(task, 1, "sync") as envs:
        trainer = ppo.Trainer(make_policy(task), envs, config, "cpu")
        constant_critic(trainer, 2.0)
        trainer.collector.reset([0])
        rollout = trainer.collector.collect(torch.Generator())
    assert rollout.rewards[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert rollout.ended[:, 0].tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert rollout.next_values[:, 0].tolist() == [2, 2, 0, 2, 2, 2, 2]
    advantages = ppo.gae(
        rollout.rewards, rollout.values, rollout.next_values, rollout.ended, config.gamma, config.gae_lambda
    )
    assert advantages[:, 0].tolist() == [0.3125, 1.25, 1, 0.375, 1.5, 2, 0]
    assert rollout.returns == [6, 6]
    assert rollout.lengths == [3, 3]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_values_are_of_the_frames_that_came_next(kind):
    """Computed anew from the pictures of each episode alone: history begins empty, a truncation's last frame counts."""
    task = toys.script()
    config = ppo_config(environments=2, rollout_steps=8, num_minibatches=1, total_frames=32)
    policy = make_policy(task)
    with vector_env(task, 2, kind) as envs:
        trainer = ppo.Trainer(policy, envs, config, "cpu")
        trainer.collector.reset([0, 1])
        rollouts = [trainer.collector.collect(torch.Generator().manual_seed(0)) for _ in range(2)]
    values = torch.cat([rollout.values for rollout in rollouts])
    next_values = torch.cat([rollout.next_values for rollout in rollouts])

    def value(kind_of_episode, step):
        history = torch.zeros(1, *policy.history_shape)
        for earlier in range(step + 1):
            frame = torch.full((1, *toys.FRAME.shape), 20 + 50 * earlier + 5 * kind_of_episode, dtype=torch.uint8)
            seen, history = policy.see({"frame": frame}, history)
        with torch.no_grad():
            return trainer.agent(trainer.agent.frozen(seen), torch.zeros(1, 0))[1].item()

    for time in range(16):
        kind_of_episode, step = (time // 3 + 1) % 2, time % 3
        expected = value(kind_of_episode, step)
        following = 0.0 if (kind_of_episode, step) == (1, 2) else value(kind_of_episode, step + 1)
        for env in range(2):
            assert values[time, env].item() == pytest.approx(expected, abs=1e-5)
            assert next_values[time, env].item() == pytest.approx(following, abs=1e-5)
    assert len({round(value(1, step), 4) for step in range(3)}) == 3  # they can be told apart


@pytest.mark.parametrize(("task", "train_from"), [(toys.signs(), "all"), (toys.dial(), "head")])
def test_nothing_is_different_before_the_first_gradient_step(task, train_from):
    """Also with batch norm among the trained layers: the policy that acted is the one that learns."""
    config = ppo_config(train_from=train_from, total_frames=128, learning_rate=0.0, update_epochs=1)
    policy = make_policy(task, tap="layer1")
    _, _, measures = run(task, config, policy)
    assert measures[0]["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert measures[0]["clip_fraction"] == 0


@pytest.mark.parametrize("train_from", ["head", "layer1", "all"])
def test_what_lies_below_the_line_does_not_move(train_from):
    task = toys.signs()
    policy = make_policy(task, tap="layer1")
    before = snapshot(policy.trunk)
    run(task, ppo_config(train_from=train_from, total_frames=192), policy)
    assert moved(before, policy.trunk) == {"head": set(), "layer1": {"layer1"}, "all": {"stem", "layer1"}}[train_from]
    assert not policy.training


def test_batch_norm_is_measured_once_and_then_constant():
    task = toys.signs()
    policy = make_policy(task)
    run(task, ppo_config(train_from="all", total_frames=128, learning_rate=0.0), policy)
    once = snapshot(policy.trunk)
    assert not torch.equal(once["stem.bn1.running_mean"], torch.zeros(64))
    policy = make_policy(task)
    run(task, ppo_config(train_from="all", total_frames=256, learning_rate=0.0), policy)
    assert moved(once, policy.trunk) == set()


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_with_compile_the_same_layers_move_and_it_learns(amp):
    task = toys.signs()
    policy = make_policy(task, tap="layer1")
    before = snapshot(policy.trunk)
    config = ppo_config(train_from="layer1", compile=True, amp=amp, total_frames=1280, learning_rate=1e-3, gamma=0)
    _, _, measures = run(task, config, policy)
    assert moved(before, policy.trunk) == {"layer1"}
    assert not any("_orig_mod" in name for name in policy.state_dict())
    assert measures[-1]["episode_return"] > measures[0]["episode_return"] + 1


def test_it_learns_to_act_on_a_picture():
    task = toys.signs()
    config = ppo_config(total_frames=2048, environments=8, update_epochs=4, num_minibatches=4, gamma=0.0)
    _, _, measures = run(task, config)
    assert measures[0]["episode_return"] < 6
    assert np.mean([m["episode_return"] for m in measures[-3:]]) > 7.5  # of 8


def test_it_learns_continuous_actions_on_a_picture_and_a_number():
    task = toys.dial()
    config = ppo_config(
        total_frames=8192, environments=8, rollout_steps=32, update_epochs=4, num_minibatches=8, gamma=0.0
    )
    policy, trainer, measures = run(task, config)
    assert measures[0]["episode_return"] < 0
    assert np.mean([m["episode_return"] for m in measures[-3:]]) > 6.5  # of 8
    assert (trainer.agent.log_std < -0.5).all()
    assert policy.spec.score_kind == "mean"


def test_with_bf16_it_learns_too():
    task = toys.signs()
    config = ppo_config(
        total_frames=1024,
        environments=8,
        update_epochs=4,
        num_minibatches=4,
        gamma=0.0,
        train_from="all",
        amp="bf16",
        learning_rate=3e-3,
    )
    _, _, measures = run(task, config)
    assert measures[-1]["episode_return"] > measures[0]["episode_return"] + 1


def test_processes_and_one_process_give_the_same_rollout():
    task, rollouts = toys.dial(), []
    for kind in ("sync", "async"):
        config = ppo_config()
        with vector_env(task, 4, kind) as envs:
            assert isinstance(envs, SyncVectorEnv) == (kind == "sync")
            trainer = ppo.Trainer(make_policy(task), envs, config, "cpu")
            trainer.collector.reset([3, 4, 5, 6])
            rollouts.append(trainer.collector.collect(torch.Generator().manual_seed(0)))
    for name in ("features", "vector", "actions", "log_probs", "values", "next_values", "rewards", "ended"):
        assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name)), name


@pytest.mark.parametrize("train_from", ["head", "all"])
def test_a_trainer_that_is_rebuilt_between_rounds_ends_in_the_same_weights(train_from):
    task = toys.dial()
    config = ppo_config(train_from=train_from, total_frames=320, rounds=2, learning_rate=1e-3)
    whole, trainer, _ = run(task, config, rounds=2)
    first = make_policy(task)
    with vector_env(task, config.environments, "sync") as envs:
        before = ppo.Trainer(first, envs, config, "cpu")
        list(before.round(0))
    second = make_policy(task, seed=1)
    with vector_env(task, config.environments, "sync") as envs:
        after = ppo.Trainer(second, envs, config, "cpu")
        second.load_state_dict(first.state_dict())
        after.load_state(before.state())
        list(after.round(1))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    for name, value in trainer.state().items():
        assert torch.equal(value, after.state()[name]), name


def test_an_update_ends_when_the_policy_has_moved_far_enough():
    task = toys.signs()
    far = ppo_config(update_epochs=10, learning_rate=0.1, total_frames=128)
    assert run(task, far)[2][0]["epochs"] == 10
    assert run(task, dataclasses.replace(far, target_kl=0.01))[2][0]["epochs"] < 10


def test_a_ratio_is_clipped_where_that_lowers_the_gain():
    """Equation 7: advantage 1 gains no more beyond 1.2, advantage -1 keeps its whole loss."""
    config = ppo_config(norm_adv=False, vf_coef=0.0)
    agent = ppo.ActorCritic(make_policy(toys.signs()), "head")
    scores = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    actions, zeros = torch.tensor([1, 1]), torch.zeros(2)
    log_probs = agent.distribution(scores).log_prob(actions)
    advantages = torch.tensor([1.0, -1.0])
    old = ppo.Batch(actions, log_probs - np.log(1.5), zeros, advantages)
    loss, measures = ppo.ppo_loss(agent, scores, zeros, old, config)
    assert loss.item() == pytest.approx(-(1.2 - 1.5) / 2)
    assert measures["clip_fraction"].item() == 1
    assert measures["approx_kl"].item() == pytest.approx(0.5 - np.log(1.5))


def test_value_errors_are_clipped_if_wanted():
    agent = ppo.ActorCritic(make_policy(toys.signs()), "head")
    scores, actions, zeros = torch.zeros(1, 2), torch.tensor([0]), torch.zeros(1)
    log_probs = agent.distribution(scores).log_prob(actions)
    losses = []
    for clipped in (False, True):
        config = ppo_config(norm_adv=False, vf_coef=1.0, clip_vloss=clipped)
        old = ppo.Batch(actions, log_probs, zeros, torch.tensor([1.0]))  # the return is 1 too, since the old value is 0
        _, measures = ppo.ppo_loss(agent, scores, torch.tensor([0.9]), old, config)
        losses.append(measures["value_loss"].item())
    assert losses == pytest.approx([(1 - 0.9) ** 2 / 2, (1 - 0.2) ** 2 / 2])


def test_learning_that_diverges_says_so():
    task = toys.signs()
    with pytest.raises(ScoresError, match="lower --learning-rate"):
        run(task, ppo_config(reward_scale=1e30, total_frames=128))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_minibatches": 7}, "do not divide into --num-minibatches 7"),
        ({"total_frames": 64}, "1 rounds need --total-frames 128 at least"),
        ({"gamma": 1.5}, "--gamma must be between 0 and 1"),
        ({"rounds": 12}, "12 rounds need --total-frames 832 at least"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        ppo_config(**changes).check()


def test_all_updates_belong_to_one_round():
    config = ppo_config(total_frames=64 * 12, rounds=4)
    assert [number for index in range(4) for number in config.updates_of(index)] == list(range(11))


def test_the_memory_of_kept_features_is_known_before():
    task = toys.dial()
    policy, config = make_policy(task), ppo_config()
    with vector_env(task, 4, "sync") as envs:
        trainer = ppo.Trainer(policy, envs, config, "cpu")
        trainer.collector.reset([0, 1, 2, 3])
        rollout = trainer.collector.collect(torch.Generator())
    run_config = RunConfig(task.name, "none", policy.config, ppo=config)
    assert (
        kept_bytes(run_config, policy) == rollout.features.nbytes + rollout.vector.nbytes == 64 * (64 * 8 * 8 + 1) * 4
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("mode", ["off", "default", "reduce-overhead"])
def test_training_on_cuda_learns(amp, mode):
    task = toys.signs()
    policy = make_policy(task, tap="layer1").to("cuda")
    config = ppo_config(
        total_frames=2048,
        environments=8,
        train_from="layer1",
        amp=amp,
        compile=mode != "off",
        compile_mode="default" if mode == "off" else mode,
        learning_rate=1e-3,
        gamma=0.0,
    )
    with vector_env(task, 8, "async") as envs:
        measures = list(ppo.Trainer(policy, envs, config, "cuda").round(0))
    assert measures[-1]["episode_return"] > measures[0]["episode_return"] + 1
