"""The deployable module of a policy of Stable-Baselines3.

What stood between environment and network in training becomes part of it, in SB3's order:

raw ─► channels first ─► normalize ─► stack ─► normalize ─► / 255 ─► extractor ─► latent ─► head ─► scores ─► action
       VecTransposeImage  VecNormalize, before or after VecFrameStack  └─ the network's own ─┘

A stack begins as zeros, as explicit states do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xfer.errors import UsageError
from xfer.spec import ActionSpec, ScoreKind, TensorSpec
from xfer.tasks.env import ONLY

if TYPE_CHECKING:
    import gymnasium

INSTEAD = "Export it as module:function."


@dataclass(frozen=True)
class Statistics:
    """What VecNormalize does to one observation: subtract, divide, clip.

    Attributes:
        mean: float32, of the observation's shape.
        deviation: float32, the square root of variance and epsilon together.
        clip: Largest absolute value afterwards.
    """

    mean: np.ndarray
    deviation: np.ndarray
    clip: float


class Normalize(nn.Module):
    """``Statistics`` as a module."""

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(statistics.mean))
        self.register_buffer("deviation", torch.from_numpy(statistics.deviation))
        self.clip = statistics.clip

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, ...] normalized."""
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        return ((x - mean) / deviation).clamp(-self.clip, self.clip)


class Sense(nn.Module):
    """One observation on its way from the environment to the network.

    Args:
        raw: What the environment gives.
        seen: Shape of what the network takes, stacked, without the batch.
        transpose: Whether the environment's channels come last and the network's first.
        first: Whether frames are stacked along the first axis (channels first), else along the last.
        statistics: What VecNormalize does, if anything; of one frame, or of all that are stacked.

    Attributes:
        state: The earlier frames that are kept, or None where nothing is stacked.
    """

    def __init__(
        self, raw: TensorSpec, seen: tuple[int, ...], transpose: bool, first: bool, statistics: Statistics | None
    ) -> None:
        super().__init__()
        self.transpose, self.axis = transpose, 1 if first else -1
        one = channels_first(raw.shape) if transpose else raw.shape
        axis = 0 if first else -1
        self.size = one[axis]
        self.before: nn.Module = nn.Identity()
        self.after: nn.Module = nn.Identity()
        if statistics is not None:
            if transpose and statistics.mean.shape not in (one, seen):
                mean, deviation = (np.moveaxis(a, -1, 0).copy() for a in (statistics.mean, statistics.deviation))
                statistics = Statistics(mean, deviation, statistics.clip)
            if statistics.mean.shape == seen:
                self.after = Normalize(statistics)
            elif statistics.mean.shape == one:
                self.before = Normalize(statistics)
            else:
                raise UsageError(
                    f"VecNormalize's statistics of {raw.name} have shape {list(statistics.mean.shape)}; the network"
                    f" sees {list(seen)}. Is this file of another model?"
                )
        self.state: TensorSpec | None = None
        if seen != one:
            kept = list(one)
            kept[axis] = seen[axis] - one[axis]
            name = "history" if raw.name == ONLY else f"{raw.name}_history"
            self.state = TensorSpec(name, "float32", tuple(kept))

    def forward(self, raw: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what the network takes, float32 [B, ...], and the next history."""
        x = raw.float()
        if self.transpose:
            x = x.permute(0, 3, 1, 2)
        x = self.before(x)
        if history is None:
            return self.after(x), None
        window = torch.cat([history, x], self.axis)
        after = window[:, self.size :] if self.axis == 1 else window[..., self.size :]
        return self.after(window), after


class SB3Module(nn.Module):
    """An SB3 policy's network between raw observations and actions.

    Args:
        senses: What happens to each observation, by name.
        policy: SB3's policy.
        action: The action's contract.
    """

    def __init__(self, senses: Mapping[str, Sense], policy: Any, action: ActionSpec) -> None:
        super().__init__()
        from stable_baselines3.common.preprocessing import is_image_space

        self.senses = nn.ModuleDict(senses)
        self.names, self.action = tuple(senses), action
        self.extractor, self.latent, self.head, self.score_kind = parts(policy)
        spaces = spaces_of(policy.observation_space)
        self.images = {name for name, space in spaces.items() if policy.normalize_images and is_image_space(space)}
        self.is_dict, self.squash = hasattr(policy.observation_space, "spaces"), policy.squash_output
        self.register_buffer("low", torch.tensor(action.low))
        self.register_buffer("high", torch.tensor(action.high))
        self.dtype = torch.float32

    def cast(self, dtype: torch.dtype) -> None:
        """Let the network compute in ``dtype``; what comes before it stays exact."""
        self.dtype = dtype
        for part in (self.extractor, self.latent, self.head):
            part.to(dtype)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the action, its scores and the next histories."""
        seen, after = self.sense(*inputs)
        return (*self.decide(seen), *after)

    def sense(self, *inputs: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return what SB3's own ``predict`` takes, float32 [B, ...] by name, and the next histories."""
        histories = list(inputs[len(self.names) :])
        seen, after = {}, list[Tensor]()
        for name, raw in zip(self.names, inputs, strict=False):
            sense = self.senses[name]
            seen[name], later = sense(raw, histories.pop(0) if sense.state is not None else None)
            after += [] if later is None else [later]
        return seen, after

    def decide(self, seen: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return action and scores of what SB3's own ``predict`` takes, float32 [B, ...] by name."""
        scaled = {name: (x / 255 if name in self.images else x).to(self.dtype) for name, x in seen.items()}
        scores = self.head(self.latent(self.extractor(scaled if self.is_dict else scaled[ONLY]))).float()
        if self.action.kind == "discrete":
            return scores.argmax(dim=1), scores
        if not self.action.low:
            return scores.clone(), scores
        low, high = self.get_buffer("low"), self.get_buffer("high")
        if self.squash:
            return low + 0.5 * (scores.tanh() + 1) * (high - low), scores
        return torch.minimum(torch.maximum(scores, low), high), scores


class Latent(nn.Module):
    """What somebody put into the place of SB3's ``MlpExtractor``."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        """Return the actor's latent features, as SB3 asks for them."""
        latent: Tensor = self.network.forward_actor(features)
        return latent


def parts(policy: Any) -> tuple[nn.Module, nn.Module, nn.Module, ScoreKind]:
    """Return what a policy acts with: extractor, latent network and head, and what its scores are.

    Raises:
        UsageError: If it is none of PPO's, A2C's, DQN's or SAC's.
    """
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import MlpExtractor
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.sac.policies import SACPolicy

    if isinstance(policy, ActorCriticPolicy):
        kind: ScoreKind = "logits" if hasattr(policy.action_space, "n") else "mean"
        network = policy.mlp_extractor
        latent = network.policy_net if type(network) is MlpExtractor else Latent(network)
        return policy.pi_features_extractor, latent, policy.action_net, kind
    if isinstance(policy, DQNPolicy):
        return policy.q_net.features_extractor, nn.Identity(), policy.q_net.q_net, "values"
    if isinstance(policy, SACPolicy):
        return policy.actor.features_extractor, policy.actor.latent_pi, policy.actor.mu, "mean"
    raise UsageError(f"{type(policy).__name__} is not of PPO, A2C, DQN or SAC. {INSTEAD}")


def spaces_of(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """Return an observation space's parts by name.

    Raises:
        UsageError: If one is no Box.
    """
    from gymnasium.spaces import Box, Dict

    found = dict(space.spaces) if isinstance(space, Dict) else {ONLY: space}
    for name, one in found.items():
        if not isinstance(one, Box):
            raise UsageError(f"The model sees {name}: {one}. Only arrays (Box), and dicts of them, can be exported.")
    return found


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return [H, W, C] as [C, H, W]."""
    return (shape[-1], *shape[:-1])
