"""Options of training. Each is one field, with its default and its help beside it. Importing this needs no torch.

``xfer train`` builds its command line from these classes, ``config.json`` keeps them, and ``xfer.train`` takes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from xfer.errors import UsageError, check_choice
from xfer.models.config import task_defaults
from xfer.models.limits import above, at_least, between, check_limits
from xfer.spec import ScoreKind

if TYPE_CHECKING:
    from xfer.tasks import Task

Algorithm = Literal["imitation", "ppo"]
LossKind = Literal["mse", "cross-entropy"]
SCORE_KINDS: dict[str, ScoreKind] = {"mse": "values", "cross-entropy": "logits"}
"""What the scores of a discrete action mean after training with each loss."""

MAX_SEED = 2**53
"""Seeds of rounds are derived from this one by arithmetic in 64 bits."""

C = TypeVar("C", bound="TrainingConfig")


@dataclass(frozen=True)
class TrainingConfig:
    """What imitation and PPO have in common."""

    train_from: str = "layer1"
    """First layer that is trained: head, layer4, layer3, layer2, layer1 or all; those before it stay frozen."""
    rounds: Annotated[int, at_least(1)] = 10
    """Rounds at most. Each ends with an evaluation; the best is kept. The task's reference return ends training."""
    environments: Annotated[int, at_least(1)] = 2
    """Environments stepped together (PPO: 8). Imitation wants few, so that each gets far into its episodes."""
    learning_rate: Annotated[float, at_least(0)] = 3e-3
    """Highest learning rate (PPO: 0.00025). Imitation warms up and anneals in each round, PPO over all."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Automatic mixed precision; fp16 needs CUDA."""
    compile: Annotated[bool | Literal["auto"], tyro.conf.FlagConversionOff] = "auto"
    """torch.compile the trainable part, for PPO the frozen part too; auto: on CUDA only."""
    seed: Annotated[int, between(0, MAX_SEED)] = 0
    """Seed of everything."""

    def compiles(self, device: str) -> bool:
        """Whether ``torch.compile`` is used on ``cpu`` or ``cuda``."""
        return device == "cuda" if self.compile == "auto" else self.compile

    def resolved(self: C, device: str) -> C:
        """Return the configuration with what depends on the device decided, as a run's folder keeps it."""
        return replace(self, compile=self.compiles(device))

    def check(self) -> None:
        """Refuse values that do not fit.

        Raises:
            UsageError: If one is out of its limits, or two do not go together.
        """
        check_limits(self)


@dataclass(frozen=True)
class ImitationOptions:
    """What only imitation has."""

    frames: Annotated[int, at_least(2)] = 1000
    """Frames collected in each round, over all environments."""
    expert_noise: Annotated[float, at_least(0)] = 0.25
    """Noise in the first round: share of random discrete actions; std of continuous ones, in half their range."""
    loss: LossKind = "mse"
    """mse on the expert's scores or continuous action; cross-entropy on its chosen action or its probabilities."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """sgd has momentum 0.9."""
    weight_decay: Annotated[float, at_least(0)] = 0.01
    """Weight decay of the optimizer."""
    batch_size: Annotated[int, at_least(2)] = 64
    """Frames in a gradient step."""
    steps: Annotated[int, at_least(1)] = 120
    """Gradient steps in each round."""
    unroll: Annotated[int, at_least(1)] = 16
    """With --memory gru: steps of backpropagation through time; a batch holds --batch-size / --unroll sequences."""


@dataclass(frozen=True)
class PPOOptions:
    """What only PPO has."""

    total_frames: Annotated[int, at_least(1)] = 100_000
    """Frames of experience at most, over all environments."""
    rollout_steps: Annotated[int, at_least(1)] = 128
    """Steps of each environment between two updates."""
    update_epochs: Annotated[int, at_least(1)] = 4
    """Passes over each rollout."""
    num_minibatches: Annotated[int, at_least(1)] = 4
    """Gradient steps in each pass."""
    anneal_lr: bool = True
    """Let the learning rate fall to zero, linearly."""
    gamma: Annotated[float, between(0, 1)] = 0.99
    """Discount factor."""
    gae_lambda: Annotated[float, between(0, 1)] = 0.95
    """Lambda of generalized advantage estimation."""
    clip_coef: Annotated[float, at_least(0)] = 0.2
    """Clipping range of the probability ratio around 1."""
    norm_adv: bool = True
    """Normalize advantages in each minibatch."""
    clip_vloss: bool = False
    """Clip the value loss as the ratio is."""
    ent_coef: Annotated[float, at_least(0)] = 0.01
    """Weight of the entropy bonus."""
    vf_coef: Annotated[float, at_least(0)] = 0.5
    """Weight of the value loss."""
    max_grad_norm: Annotated[float, above(0)] = 0.5
    """Gradients are clipped to this norm."""
    target_kl: Annotated[float, at_least(0)] = 0.02
    """End an update after the epoch whose approximate KL divergence exceeds this; 0: never."""
    reward_scale: Annotated[float, above(0)] = 1.0
    """Factor on rewards before learning; reported returns are unscaled."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Mode of torch.compile; reduce-overhead records CUDA graphs."""


@dataclass(frozen=True)
class ImitationConfig(TrainingConfig, ImitationOptions):
    """How to imitate an expert: behavior cloning, then DAgger."""

    @property
    def streams(self) -> int:
        """How many episodes a memory learns from at the same time."""
        return max(1, self.batch_size // self.unroll)

    @classmethod
    def for_task(cls, task: Task, demonstrations: bool = False, **given: Any) -> ImitationConfig:
        """Return the configuration that suits a task: the class's defaults, then the task's, then ``given``.

        Args:
            task: Its ``defaults`` are used.
            demonstrations: Whether the first round learns from recorded demonstrations; it is then the only one, and
                learns discrete actions by cross-entropy, since a recording holds no scores.
            **given: Fields that are set.
        """
        brought = {k: v for k, v in task_defaults(task, "imitation").items() if k in cls.__dataclass_fields__}
        if demonstrations:
            brought |= {"rounds": 1} | ({"loss": "cross-entropy"} if task.action.kind == "discrete" else {})
        return cls(**{**brought, **given})

    def check(self) -> None:
        """Refuse values that do not fit.

        Raises:
            UsageError: If one is out of its limits, or there are too few frames for the environments.
        """
        super().check()
        if self.frames < self.environments:
            raise UsageError(f"--frames {self.frames} are too few for --environments {self.environments}.")


@dataclass(frozen=True)
class PPOConfig(TrainingConfig, PPOOptions):
    """How to learn by PPO."""

    environments: Annotated[int, at_least(1)] = 8
    learning_rate: Annotated[float, at_least(0)] = 2.5e-4

    @classmethod
    def for_task(cls, task: Task, **given: Any) -> PPOConfig:
        """Return the configuration that suits a task: the class's defaults, then the task's, then ``given``."""
        brought = {k: v for k, v in task_defaults(task, "ppo").items() if k in cls.__dataclass_fields__}
        return cls(**{**brought, **given})

    def resolved(self, device: str) -> PPOConfig:
        """Return the configuration with what depends on the device decided, as a run's folder keeps it."""
        config = super().resolved(device)
        return config if config.compile else replace(config, compile_mode="default")  # a mode of nothing

    @property
    def batch(self) -> int:
        """Frames of a rollout."""
        return self.environments * self.rollout_steps

    @property
    def updates(self) -> int:
        """Updates in all; the first rollout measures scales only."""
        return max(1, self.total_frames // self.batch - 1)

    def updates_of(self, round_index: int) -> range:
        """Return which updates belong to a round."""
        return range(self.updates * round_index // self.rounds, self.updates * (round_index + 1) // self.rounds)

    def check(self) -> None:
        """Refuse values that do not fit.

        Raises:
            UsageError: If one is out of its limits, minibatches would differ in size or hold a single frame, or there
                is not enough experience for the rounds.
        """
        super().check()
        if self.batch % self.num_minibatches:
            raise UsageError(
                f"{self.batch} frames of a rollout do not divide into --num-minibatches {self.num_minibatches}."
            )
        if self.batch // self.num_minibatches < 2:
            raise UsageError(
                f"--num-minibatches {self.num_minibatches} makes minibatches of one frame. Use fewer, or more"
                " --rollout-steps."
            )
        if self.total_frames < 2 * self.batch or self.updates < self.rounds:
            least = (self.rounds + 1) * self.batch
            raise UsageError(f"{self.rounds} rounds need --total-frames {least} at least, or fewer --rollout-steps.")


@dataclass(frozen=True)
class RunOptions:
    """What a run starts from, where it runs, and how it is judged."""

    algorithm: Literal["auto", "imitation", "ppo"] = "auto"
    """auto: imitation where the task has an expert, else ppo."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: runs/TASK)")] = None
    """Folder of the run."""
    weights: str = "imagenet"
    """Pretrained weights: imagenet (torchvision), none, a file, or another run's folder."""
    demonstrations: Annotated[str | None, tyro.conf.arg(metavar="DATASET", help_behavior_hint="(default: none)")] = None
    """Minari dataset (see xfer record) that imitation begins with. More --rounds go on with the task's expert."""
    eval_episodes: Annotated[int, at_least(1)] = 20
    """Episodes of the last evaluation; each round is judged by half as many."""
    until_success: Annotated[
        float | None, between(0, 1), tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: off)")
    ] = None
    """End training when this share of episodes succeeds in two rounds in a row, not at the reference return."""
    max_episode_steps: Annotated[
        int | None, at_least(1), tyro.conf.arg(metavar="INT", help_behavior_hint="(default: none)")
    ] = None
    """Truncate episodes after so many steps. Without, one that has not ended after 100,000 is an error."""
    vectorize: Literal["auto", "sync", "async"] = "auto"
    """PPO: async steps each environment in its own process; the weights come out equal."""
    memory_gib: Annotated[float, above(0)] = 8.0
    """Limit for the frames kept for training (PPO: of a rollout; imitation: of all rounds), in GiB."""
    device: str = "auto"
    """auto (cuda where there is one), cpu or cuda."""

    def check(self) -> None:
        """Refuse values that do not fit.

        Raises:
            UsageError: If one is out of its limits, or the device is unknown.
        """
        check_limits(self)
        if re.fullmatch(r"cuda:\d+", self.device):
            index = self.device.partition(":")[2]
            raise UsageError(f"--device {self.device}: use --device cuda, with CUDA_VISIBLE_DEVICES={index} set.")
        check_choice("device", self.device, ("auto", "cpu", "cuda"))


def choose_algorithm(run: RunOptions, task: Task) -> Algorithm:
    """Return what ``--algorithm auto`` is for a task, or the algorithm that was chosen."""
    if run.algorithm != "auto":
        return run.algorithm
    return "imitation" if run.demonstrations is not None or task.expert is not None else "ppo"
