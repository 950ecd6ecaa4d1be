"""Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347). One file, read top to bottom.

    environments ─► see ─► frozen ─► features ─► trainable ─► hidden ─┬► readout ─► scores ─► actions
                                        │                             └► critic ──► values
                                        └► kept: each epoch and minibatch begins here

The features of the frozen part are computed once, when a frame is collected, for all environments together; an epoch
costs only what is trained. With everything trained it is the trunk's input that is kept.

Batch norm stays in eval mode everywhere. PPO compares the policy that acted with the one that learns, so both must be
the same function until the first gradient step: a ratio that differs from 1 before it is noise that gets clipped. In
train mode a frame's scores would depend on the other frames of its minibatch. So statistics are constants, as is usual
where pretrained networks are fine-tuned; those of the trained stages are measured once, on a first rollout that nothing
is learned from (as AdaBN does, Li et al. 2016, arXiv:1603.04779): a random trunk's or another domain's would not fit.

Details after Huang et al. 2022, "The 37 implementation details of PPO"; names are CleanRL's.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.optim.swa_utils import update_bn

from xfer.errors import ScoresError
from xfer.models.contract import to_action
from xfer.models.policy import Policy
from xfer.training import distributed
from xfer.training.config import PPOConfig


class ActorCritic(nn.Module):
    """A policy's trainable part with a critic beside its readout, and the spread of continuous actions.

    Only the policy is kept after training; critic and ``log_std`` live in the trainer's checkpoint.

    Args:
        policy: The policy; its own modules are used and changed.
        train_from: First layer that is trained.

    Shape:
        Features [B, ...] and vectors [B, D] to scores [B, A] and values [B], both float32.
    """

    def __init__(self, policy: Policy, train_from: str) -> None:
        super().__init__()
        self.frozen, self.trainable = policy.split(train_from)
        self.critic = policy.make_readout(1)
        scores = len(policy.spec.action.elements)
        continuous = policy.spec.action.kind == "continuous"
        self.log_std = nn.Parameter(torch.zeros(scores)) if continuous else None
        initialize(self.critic, 1.0)
        self.frozen.requires_grad_(False)
        self.trainable.requires_grad_(True)
        self.eval()

    def forward(self, features: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and values."""
        hidden = self.trainable.hidden(features, vector)
        return self.trainable.readout(hidden).float(), self.critic(hidden).squeeze(1).float()

    def distribution(self, scores: Tensor) -> Distribution:
        """Return the distribution of actions: Categorical, or Normal where [-1, 1] spans the action's range."""
        if self.log_std is None:
            return Categorical(logits=scores, validate_args=False)
        return Independent(Normal(scores, self.log_std.exp().expand_as(scores), validate_args=False), 1)

    def sample(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions: int64 [B], or float32 [B, A] before clipping."""
        if self.log_std is None:
            return torch.multinomial(scores.softmax(1), 1, generator=generator).squeeze(1)
        noise = torch.randn(scores.shape, generator=generator, device=scores.device)
        return scores + self.log_std.exp() * noise


def initialize(readout: nn.Module, gain: float) -> None:
    """Give a readout orthogonal weights and zero biases; its last layer's gain sets how large its outputs begin.

    0.01 for scores makes the first policy nearly uniform; 1 for values.
    """
    linears = [module for module in readout.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        nn.init.orthogonal_(linear.weight, gain if linear is linears[-1] else math.sqrt(2))
        nn.init.zeros_(linear.bias)


class View(NamedTuple):
    """What the trainable part reads of the present frames: features [N, ...] and vectors [N, D]."""

    features: Tensor
    vector: Tensor


class Rollout(NamedTuple):
    """Experience of T steps in N environments; float32 [T, N] where nothing else is said.

    Attributes:
        features: Of the frozen part, [T * N, ...].
        vector: Vector observations, [T * N, D].
        actions: int64 [T, N], or float32 [T, N, A] before clipping.
        log_probs: Of the actions, under the policy that took them.
        values: The critic's, of each frame.
        next_values: Of the frame that came next: 0 after a termination, an episode's last frame's after a truncation.
        rewards: Scaled.
        ended: 1 where the episode ended, for either reason.
        returns: Unscaled returns of the episodes that ended.
        lengths: Their numbers of steps.
    """

    features: Tensor
    vector: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    next_values: Tensor
    rewards: Tensor
    ended: Tensor
    returns: list[float]
    lengths: list[int]


class Final(NamedTuple):
    """What a truncated episode showed last: at which step, in which environment, and with which kept frames."""

    step: int
    row: int
    history: Tensor
    observations: dict[str, np.ndarray]


class Batch(NamedTuple):
    """What the loss needs of some frames besides the network's inputs: actions, and float32 [B] of each."""

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor


Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Collector:
    """Drives the environments, and carries on from one rollout to the next.

    Args:
        envs: Environments that reset in the same step.
        policy: Its preprocessing and history are used.
        agent: What acts.
        frozen: Computes features.
        predict: Computes scores and values.
        config: How much.
        device: Where to compute.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        policy: Policy,
        agent: ActorCritic,
        frozen: Callable[[Tensor], Tensor],
        predict: Predict,
        config: PPOConfig,
        device: str,
    ) -> None:
        self.envs, self.policy, self.agent, self.config, self.device = envs, policy, agent, config, device
        self.frozen, self.predict = frozen, predict
        self.history = torch.zeros(envs.num_envs, *policy.history_shape, device=device)
        self.view = View(torch.empty(0), torch.empty(0))
        self.running = np.zeros((2, envs.num_envs))  # return and length of the episodes so far

    @torch.no_grad()
    def reset(self, seeds: Any) -> None:
        """Begin new episodes everywhere, from a list of seeds."""
        observations, _ = self.envs.reset(seed=seeds)
        self.history.zero_()
        self.running[:] = 0
        self.history, self.view = self._look(observations, self.history)

    @torch.no_grad()
    def collect(self, generator: torch.Generator, tick: Callable[[int], None] = lambda frames: None) -> Rollout:
        """Return the next rollout.

        Args:
            generator: Draws the actions.
            tick: Called with the number of frames after each step.
        """
        config, policy = self.config, self.policy
        steps, count = config.rollout_steps, self.envs.num_envs
        shape = (steps * count, *self.view.features.shape[1:])
        features = torch.empty(shape, device=self.device, memory_format=torch.channels_last)
        vector = torch.empty((steps * count, *self.view.vector.shape[1:]), device=self.device)
        actions, log_probs, values = [], [], []
        rewards, ended = np.zeros((steps, count), np.float32), np.zeros((steps, count), np.float32)
        final: list[Final] = []
        returns: list[float] = []
        lengths: list[int] = []
        for step in range(steps):
            rows = slice(step * count, (step + 1) * count)
            features[rows], vector[rows] = self.view
            with autocast(config, self.device):
                scores, value = self.predict(*self.view)
            action = self.agent.sample(scores, generator)
            actions.append(action)
            log_probs.append(self.agent.distribution(scores).log_prob(action))
            values.append(value.clone())  # CUDA graphs use an output's memory again
            chosen = action if policy.spec.action.kind == "discrete" else to_action(action, policy.spec)
            observations, reward, terminated, truncated, infos = self.envs.step(chosen.cpu().numpy())
            self.running += (reward, np.ones(count))
            rewards[step], ended[step] = reward * config.reward_scale, terminated | truncated
            begun = np.flatnonzero(terminated | truncated)
            for row in np.flatnonzero(truncated & ~terminated):  # a time limit is no failure: what would have come?
                final.append(Final(step, int(row), self.history[row], infos["final_obs"][row]))
            returns += self.running[0, begun].tolist()
            lengths += self.running[1, begun].astype(int).tolist()
            self.running[:, begun] = 0
            self.history = self.history.clone()
            self.history[begun] = 0
            self.history, self.view = self._look(observations, self.history)
            tick(count)
        with autocast(config, self.device):
            last = self.predict(*self.view)[1]
        taken = torch.stack(values)
        ends = torch.from_numpy(ended).to(self.device)
        next_values = torch.cat([taken[1:], last[None]]) * (1 - ends)
        self._bootstrap(final, next_values)
        return Rollout(
            features,
            vector,
            torch.stack(actions),
            torch.stack(log_probs),
            taken,
            next_values,
            torch.from_numpy(rewards).to(self.device),
            ends,
            returns,
            lengths,
        )

    def _look(self, observations: dict[str, np.ndarray], history: Tensor) -> tuple[Tensor, View]:
        """Return the next history and what is seen; the one pass of each frame through the frozen part.

        Nothing that is returned shares memory with ``observations``: the environments write there again.
        """
        tensors = {name: self._to_device(array) for name, array in observations.items()}
        seen, history = self.policy.see(tensors, history)
        vector = self.policy.vector(tensors)
        with autocast(self.config, self.device):
            features = self.frozen(seen.contiguous(memory_format=torch.channels_last))
        return history, View(features.float().clone(), vector)  # a clone for the same reason as values'

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _bootstrap(self, final: list[Final], next_values: Tensor) -> None:
        """Write the values of truncated episodes' last observations; in batches of the usual, static shape."""
        count = self.envs.num_envs
        for first in range(0, len(final), count):
            part = final[first : first + count]
            padded = part + part[:1] * (count - len(part))
            names = part[0].observations
            observations = {name: np.stack([last.observations[name] for last in padded]) for name in names}
            _, view = self._look(observations, torch.stack([last.history for last in padded]))
            with autocast(self.config, self.device):
                values = self.predict(*view)[1]
            for last, value in zip(part, values, strict=False):
                next_values[last.step, last.row] = value


def gae(rewards: Tensor, values: Tensor, next_values: Tensor, ended: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return generalized advantage estimates (Schulman et al. 2016, arXiv:1506.02438, equation 16), float32 [T, N].

    The sum over later steps ends where an episode does. What lies beyond is in ``next_values``: nothing after a
    termination, the value of the last observation after a truncation (Pardo et al. 2018, arXiv:1712.00378).

    Args:
        rewards: float32 [T, N].
        values: Of the frames that were acted on, float32 [T, N].
        next_values: Of the frames that came next, float32 [T, N].
        ended: 1 where an episode ended, float32 [T, N].
        gamma: Discount.
        gae_lambda: 0 trusts the critic alone, 1 the rewards alone.
    """
    delta = rewards + gamma * next_values - values
    advantages = torch.empty_like(delta)
    following = torch.zeros_like(delta[0])
    for step in reversed(range(len(delta))):
        following = delta[step] + gamma * gae_lambda * (1 - ended[step]) * following
        advantages[step] = following
    return advantages


def ppo_loss(
    agent: ActorCritic, scores: Tensor, values: Tensor, old: Batch, config: PPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a minibatch (Schulman et al. 2017, equations 7 and 9), and what is worth watching."""
    distribution = agent.distribution(scores)
    log_ratio = distribution.log_prob(old.actions) - old.log_probs
    ratio = log_ratio.exp()
    advantages, returns = old.advantages, old.advantages + old.values
    if config.norm_adv:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
    policy_loss = -torch.min(ratio * advantages, clipped * advantages).mean()
    errors = (values - returns) ** 2
    if config.clip_vloss:
        near = old.values + (values - old.values).clamp(-config.clip_coef, config.clip_coef)
        errors = torch.max(errors, (near - returns) ** 2)
    value_loss = errors.mean() / 2
    entropy = distribution.entropy().mean()
    loss = policy_loss - config.ent_coef * entropy + config.vf_coef * value_loss
    with torch.no_grad():
        measures = {
            "loss": loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": (ratio - 1 - log_ratio).mean(),  # k3 of http://joschu.net/blog/kl-approx.html
            "clip_fraction": ((ratio - 1).abs() > config.clip_coef).float().mean(),
        }
    return loss, {name: value.detach() for name, value in measures.items()}


def update(
    agent: ActorCritic,
    predict: Predict,
    rollout: Rollout,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: PPOConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Learn from a rollout, and return the means of the last epoch's measures.

    Raises:
        ScoresError: If the loss is not finite.
    """
    device = rollout.features.device.type
    advantages = gae(
        rollout.rewards, rollout.values, rollout.next_values, rollout.ended, config.gamma, config.gae_lambda
    )
    whole = Batch(*(part.flatten(0, 1) for part in (rollout.actions, rollout.log_probs, rollout.values, advantages)))
    parameters = [parameter for parameter in agent.parameters() if parameter.requires_grad]
    means: dict[str, float] = {}
    epochs = 0
    while epochs < config.update_epochs:
        order = torch.randperm(config.batch, generator=generator, device=generator.device)
        watched: list[Tensor] = []
        names: tuple[str, ...] = ()
        for rows in order.split(config.batch // config.num_minibatches):
            with autocast(config, device):
                scores, values = predict(_take(rollout.features, rows), rollout.vector[rows])
            loss, measures = ppo_loss(agent, scores, values, Batch(*(part[rows] for part in whole)), config)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            names = tuple(measures)
            watched.append(torch.stack(list(measures.values())))
        epochs += 1
        # One wait for the device an epoch, not one a minibatch.
        means = distributed.mean(dict(zip(names, torch.stack(watched).mean(0).tolist(), strict=True)))
        if not math.isfinite(means["loss"]):
            raise ScoresError("Training diverged: the loss is not finite. Use a lower --learning-rate or --amp off.")
        if config.target_kl and means["approx_kl"] > config.target_kl:
            break
    targets = advantages + rollout.values
    spread = targets.var()
    explained = 1 - advantages.var() / spread if spread > 1e-8 else torch.zeros(())
    return {**means, "epochs": float(epochs), "explained_variance": float(explained)}


def _take(features: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of channels_last features, channels_last; indexing them as they are is three times slower."""
    return features.permute(0, 2, 3, 1)[rows].permute(0, 3, 1, 2)


class Trainer:
    """Everything that PPO changes or carries on: policy, critic, optimizer, environments.

    A round depends on the seed, the weights and ``state()`` only: a run that was killed ends in the same weights.

    Args:
        policy: What is trained, in place.
        envs: ``config.environments`` of them, which reset in the same step.
        config: How.
        device: Where to compute.
    """

    def __init__(self, policy: Policy, envs: VectorEnv[Any, Any, Any], config: PPOConfig, device: str) -> None:
        config.check()
        self.policy, self.config, self.device = policy, config, device
        # For as long as it is trained; checkpoints and deployed copies are contiguous.
        self.agent = ActorCritic(policy, config.train_from).to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.agent.parameters() if parameter.requires_grad],
            config.learning_rate,
            eps=1e-5,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(device, enabled=config.amp == "fp16")
        # compile wraps, it does not replace: what is saved is the module underneath.
        self.predict = self._compiled(self.agent)
        many = distributed.size() > 1
        self.learn = self._compiled(distributed.parallel(self.agent)) if many else self.predict
        frozen = self._compiled(self.agent.frozen) if list(self.agent.frozen.children()) else self.agent.frozen
        self.collector = Collector(envs, policy, self.agent, frozen, self.predict, config, device)

    def round(self, index: int, tick: Callable[[int], None] = lambda frames: None) -> Iterator[dict[str, float]]:
        """Run the updates of a round, in environments that begin anew; yield what each measured.

        Args:
            index: Which round; it decides all seeds.
            tick: Called with the number of frames after each step.
        """
        config = self.config
        seeds = np.random.default_rng([config.seed, index]).integers(2**19, size=config.environments)
        generator = torch.Generator(self.device).manual_seed(1000 * config.seed + index)
        self.collector.reset(seeds.tolist())  # evaluation's seeds lie above these
        if index == 0:
            self._fit_scales(self.collector.collect(generator, tick))
        for number in config.updates_of(index):
            left = 1 - number / config.updates if config.anneal_lr else 1.0
            for group in self.optimizer.param_groups:
                group["lr"] = left * config.learning_rate
            start = time.perf_counter()
            rollout = self.collector.collect(generator, tick)
            collected = time.perf_counter()
            measures = update(self.agent, self.learn, rollout, self.optimizer, self.scaler, config, generator)
            measures["collect_frames_per_second"] = config.batch / (collected - start)
            measures["update_frames_per_second"] = config.batch / (time.perf_counter() - collected)
            measures["learning_rate"] = left * config.learning_rate
            if rollout.returns:
                measures["episode_return"] = fmean(rollout.returns)
                measures["episode_length"] = fmean(rollout.lengths)
            yield measures

    @torch.no_grad()
    def _fit_scales(self, rollout: Rollout) -> None:
        """Fix the scales of the network's inputs, and of batch norm where it is trained, from a first rollout."""
        self.policy.fit_standardize(self.config.train_from, rollout.features, rollout.vector)
        update_bn(rollout.features.split(self.config.batch // self.config.num_minibatches), self.agent.trainable.stages)
        distributed.average_buffers(self.agent.trainable)

    def state(self) -> dict[str, Tensor]:
        """Return what the next round needs besides the policy's weights."""
        tensors = {f"agent.{name}": tensor for name, tensor in self._own().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        for name, value in self.scaler.state_dict().items():
            tensors[f"scaler.{name}"] = torch.tensor(value)
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what ``state()`` gave; the policy's weights are loaded by whoever owns them."""
        own = self._own()
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[f"agent.{name}"])
        description = self.optimizer.state_dict()
        parameters = self.optimizer.param_groups[0]["params"]
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, moment = rest.partition(".")
                # In the layout of its parameter: another one may round differently.
                like = torch.empty_like(parameters[int(index)]) if tensor.dim() else torch.empty(())
                description["state"].setdefault(int(index), {})[moment] = like.copy_(tensor)
        self.optimizer.load_state_dict(description)
        if self.scaler.is_enabled():
            names = self.scaler.state_dict()
            self.scaler.load_state_dict({name: tensors[f"scaler.{name}"].item() for name in names})

    def _compiled(self, module: nn.Module) -> Callable[..., Any]:
        if not self.config.compiles(self.device):
            return module
        return torch.compile(module, dynamic=False, mode=self.config.compile_mode)

    def _own(self) -> dict[str, Tensor]:
        """Return the parameters that are not the policy's."""
        return {
            name: parameter.detach()
            for name, parameter in self.agent.named_parameters()
            if not name.startswith(("frozen.", "trainable."))
        }


def autocast(config: PPOConfig, device: str) -> contextlib.AbstractContextManager[object]:
    """Return the precision context of a forward pass."""
    if config.amp == "off":
        return contextlib.nullcontext()
    return torch.amp.autocast(device, torch.bfloat16 if config.amp == "bf16" else torch.float16)
