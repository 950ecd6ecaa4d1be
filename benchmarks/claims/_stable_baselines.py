"""Stable-Baselines3's PPO on a network of ours: the other side of `xfer reproduce training-speed`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch import Tensor, nn

from xfer.models.backbones import build
from xfer.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from xfer.training.config import PPOConfig
from xfer.training.ppo import ActorCritic


class Trunk(BaseFeaturesExtractor):
    """The same torchvision trunk with global average pooling; below the line it is frozen, batch norm is in eval mode.

    Args:
        observation_space: A dict with one image, channels first.
        backbone: Name of the network.
        tap: Its last stage.
        frozen: Names of the stages that do not move.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation_space: gymnasium.spaces.Dict, backbone: str, tap: str, frozen: list[str]) -> None:
        trunk = build(backbone, tap).eval()
        with torch.no_grad():
            width = trunk(torch.zeros(1, 3, 84, 84)).shape[1]
        super().__init__(observation_space, width)
        self.trunk = trunk
        for name in frozen:
            getattr(trunk, name).requires_grad_(False)
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).reshape(3, 1, 1))

    def train(self, mode: bool = True) -> Trunk:
        """Stay in eval mode, as ours does."""
        return super().train(False)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return pooled features, [B, F]."""
        features: Tensor = self.trunk((observations["frame"] - self.mean) / self.std)
        return features.mean((2, 3))


class Opponent:
    """Stable-Baselines3's PPO with the settings of ours.

    Args:
        make: Builds an environment.
        config: Settings.
        backbone: Name of the network.
        tap: Its last stage.
        frozen: Names of the stages that do not move.
    """

    def __init__(self, make: Callable[[], Any], config: PPOConfig, backbone: str, tap: str, frozen: list[str]) -> None:
        self.config = config
        self.envs = SubprocVecEnv([make] * config.environments)
        self.model = PPO(
            "MultiInputPolicy",
            self.envs,
            config.learning_rate,
            n_steps=config.rollout_steps,
            batch_size=config.batch // config.num_minibatches,
            n_epochs=config.update_epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip_coef,
            normalize_advantage=config.norm_adv,
            ent_coef=config.ent_coef,
            vf_coef=config.vf_coef,
            max_grad_norm=config.max_grad_norm,
            target_kl=config.target_kl or None,
            policy_kwargs={
                "features_extractor_class": Trunk,
                "features_extractor_kwargs": {"backbone": backbone, "tap": tap, "frozen": frozen},
                "net_arch": [],
                "normalize_images": False,
            },
            seed=config.seed,
            device="cpu",
        )
        _, callback = self.model._setup_learn(10**9, None)
        self.callback: BaseCallback = callback
        assert self.model.env is not None
        self.envs_seen = self.model.env  # with channels first

    def turn(self) -> tuple[float, float]:
        """Collect one rollout and learn from it; return the seconds of both."""
        start = time.perf_counter()
        self.model.collect_rollouts(self.envs_seen, self.callback, self.model.rollout_buffer, self.config.rollout_steps)
        collected = time.perf_counter()
        self.model.train()
        return collected - start, time.perf_counter() - collected

    def take_weights(self, agent: ActorCritic, trunk: nn.Module) -> None:
        """Copy ours."""
        policy: Any = self.model.policy
        policy.features_extractor.trunk.load_state_dict(trunk.state_dict())
        policy.action_net.load_state_dict(agent.trainable.readout.state_dict())
        policy.value_net.load_state_dict(agent.critic.state_dict())

    def outputs(self, frames: Any) -> tuple[Tensor, Tensor]:
        """Return scores [B, A] and values [B] of frames, uint8 [B, H, W, 3]."""
        policy: Any = self.model.policy
        observations = obs_as_tensor({"frame": frames.transpose(0, 3, 1, 2)}, torch.device("cpu"))
        with torch.no_grad():
            scores = policy.get_distribution(observations).distribution.logits
            return scores, policy.predict_values(observations).squeeze(1)

    @property
    def parameters(self) -> tuple[int, int]:
        """Numbers of all parameters, and of those that are trained."""
        every = list(self.model.policy.parameters())
        return sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad)

    def close(self) -> None:
        """End the environments' processes."""
        self.envs.close()
