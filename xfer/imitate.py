"""Imitation: behaviour cloning, then DAgger (Ross, Gordon & Bagnell 2011). One file, read top to bottom.

In the first round the expert drives, with noise in its actions; from then on the policy
drives and the expert says what it would have done. After each round the policy is fitted to all frames so far.
What lies below the ``--train-from`` line is computed once a frame and kept, so an epoch costs only what is
trained. A round depends on nothing but the seed, the weights and the frames before it; so a run that was
killed is continued from its last whole round, to the same weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xfer import distributed
from xfer.errors import UsageError
from xfer.evaluate import native
from xfer.policy import Policy, from_action, to_action
from xfer.spec import ScoreKind
from xfer.tasks import ExpertKind, Task

LossKind = Literal["mse", "cross-entropy"]
SCORE_KINDS: dict[str, ScoreKind] = {"mse": "values", "cross-entropy": "logits"}
"""What the scores of a discrete action mean after training with each loss."""

REPORT_EVERY = 50
"""Gradient steps between two reports of the loss."""


@dataclass(frozen=True)
class ImitationConfig:
    """How to imitate.

    Attributes:
        rounds: Rounds of collecting and fitting; the first is behaviour cloning.
        frames: Frames collected in each round.
        environments: Environments that are stepped together.
        expert_noise: Noise in the first round, so that it shows how to recover: the share of random actions among
            discrete ones; the standard deviation, as a share of half the range, that is added to continuous ones.
        loss: ``mse`` on the expert's scores or continuous action; or ``cross-entropy``, on its hard action (the
            textbook form) or, where the expert gives probabilities, on these.
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        learning_rate: The highest of each round, which warms up to it and anneals to zero (Smith 2018, 1cycle).
        weight_decay: Of the optimiser.
        batch_size: Frames in a gradient step.
        steps: Gradient steps in each round.
        train_from: First layer that moves: ``head``, a stage, or ``all``.
        amp: Autocast precision of fitting: ``off``, ``bf16`` or ``fp16`` (CUDA, with a GradScaler).
        compile: Whether ``torch.compile`` wraps the trained part while fitting.
        seed: Seed of everything.
    """

    rounds: int
    frames: int
    environments: int
    expert_noise: float
    loss: LossKind
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    batch_size: int
    steps: int
    train_from: str
    amp: Literal["off", "bf16", "fp16"]
    compile: bool
    seed: int


class Frames(NamedTuple):
    """What a round collected.

    Attributes:
        seen: The trunk's inputs, float32 [N, 3, h, w].
        expert: What the expert said, float32 [N, A]: scores, probabilities, or actions in the environment's units.
        vector: The observations' vectors, float32 [N, D]; D is 0 where a task has none.
    """

    seen: Tensor
    expert: Tensor
    vector: Tensor = torch.zeros(0, 0)  # nothing was kept of it before there were vectors


def collect(
    task: Task,
    policy: Policy,
    config: ImitationConfig,
    round_index: int,
    device: str,
    tick: Callable[[int], None] = lambda frames: None,
) -> Frames:
    """Drive several environments together and ask the expert about every frame.

    Args:
        task: A task with an expert.
        policy: What drives, except in round 0.
        config: How much.
        round_index: Which round; it decides the seeds.
        device: Where the policy is.
        tick: Called with the number of frames after each step.
    """
    if task.expert is None:
        raise UsageError(f"Task {task.name} has no expert to imitate.")
    rng = np.random.default_rng([config.seed, round_index])
    environments = [task.make() for _ in range(config.environments)]
    seeds = rng.integers(2**19, size=len(environments))  # evaluation's seeds lie above these
    shown = [env.reset(seed=int(seed))[0] for env, seed in zip(environments, seeds, strict=True)]
    history = torch.zeros(len(environments), *policy.history_shape, device=device)
    kept: list[Frames] = []
    for _ in range(config.frames // len(environments)):
        expert = np.stack([task.expert(env) for env in environments])
        with torch.inference_mode():
            raw = {name: np.stack([observations[name] for observations in shown]) for name in shown[0]}
            tensors = {name: torch.from_numpy(array).to(device) for name, array in raw.items()}
            seen, history = policy.see(tensors[policy.frame_name], history)
            vector = policy.vector(tensors)
            if round_index == 0:
                chosen = with_noise(expert, task, config.expert_noise, rng)
            else:
                chosen = to_action(policy.scores(seen, vector), policy.spec).cpu().numpy()
        kept.append(Frames(seen.cpu(), torch.from_numpy(expert), vector.cpu()))
        begun = []
        for i, env in enumerate(environments):
            shown[i], _, terminated, truncated, _ = env.step(native(env, chosen[i]))
            if terminated or truncated:
                shown[i], _ = env.reset()
                begun.append(i)
        history = history.clone()
        history[begun] = 0
        tick(len(environments))
    for env in environments:
        env.close()
    return Frames(*(torch.cat(parts) for parts in zip(*kept, strict=True)))


def with_noise(expert: np.ndarray, task: Task, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Return the expert's actions with noise in them.

    Args:
        expert: What it said, float32 [B, A].
        task: Says what that means.
        noise: As ``ImitationConfig.expert_noise``.
        rng: Where noise comes from.

    Returns:
        Actions in the environment's units: int [B] or float32 [B, A].
    """
    if task.action.kind == "continuous":
        low, high = np.array(task.action.low, np.float32), np.array(task.action.high, np.float32)
        drawn = rng.standard_normal(expert.shape, np.float32) * noise * (high - low) / 2
        return np.clip(expert + drawn, low, high)
    chosen: np.ndarray = expert.argmax(1)
    noisy = rng.random(len(chosen)) < noise
    return np.where(noisy, rng.integers(expert.shape[1], size=len(chosen)), chosen)


def features(lower: nn.Module, seen: Tensor, device: str, batch_size: int = 128) -> Tensor:
    """Compute once what crosses the freeze line: float32 [N, ...] on the CPU."""
    lower.eval()
    with torch.inference_mode():
        parts = [lower(part.to(device)).cpu() for part in seen.split(batch_size)]
    return torch.cat(parts)


def fit(
    policy: Policy,
    lower_features: Tensor,
    expert: Tensor,
    config: ImitationConfig,
    round_index: int,
    device: str,
    vector: Tensor | None = None,
    expert_kind: ExpertKind = "scores",
) -> Iterator[tuple[int, int, float]]:
    """Fit the trained part to all frames so far; yield (step, all steps, mean loss since the last yield).

    Below the line nothing moves: no gradients, and batch norm keeps its statistics.

    Args:
        policy: Changed in place.
        lower_features: What ``features`` gave for all frames.
        expert: What the expert said of them, float32 [N, A].
        config: How.
        round_index: Which round; it decides the order of the frames.
        device: Where to compute.
        vector: Their vectors, float32 [N, D], if the policy reads any.
        expert_kind: What ``expert`` is: ``Task.expert_kind``.

    Raises:
        UsageError: If the loss is none for this kind of action.
    """
    continuous = policy.spec.action.kind == "continuous"
    if continuous and config.loss != "mse":
        raise UsageError(f"--loss {config.loss} is for discrete actions; those of {policy.spec.task} take mse.")
    targets = from_action(expert, policy.spec) if continuous else expert
    lower, upper = policy.split(config.train_from)
    lower.requires_grad_(False).eval()
    upper.requires_grad_(True).train()
    # Convolutions train about a quarter faster so; everything else sees the usual layout (see the end).
    upper.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(upper, config)
    # Warm up, then anneal: a round that starts at the full rate can kill a network for good.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps + 1, cycle_momentum=False
    )
    # compile wraps, it does not replace: what is saved is the module underneath.
    joint = distributed.parallel(upper)
    predict: Callable[..., Tensor] = torch.compile(joint, dynamic=False) if config.compile else joint
    scaler = torch.amp.GradScaler(device, enabled=config.amp == "fp16")
    losses: list[float] = []
    for step, rows in enumerate(batches(len(expert), config, round_index), start=1):
        inputs = lower_features[rows].to(device, memory_format=torch.channels_last, non_blocking=True)
        more = () if vector is None else (vector[rows].to(device, non_blocking=True),)
        wanted = targets[rows].to(device, non_blocking=True)
        with autocast(config, device):
            scores = predict(inputs, *more)
        loss = imitation_loss(scores.float(), wanted, config.loss, expert_kind)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(loss.item())
        if len(losses) == REPORT_EVERY or step == config.steps:
            yield step, config.steps, sum(losses) / len(losses)
            losses.clear()
    upper.to(memory_format=torch.contiguous_format)
    distributed.average_buffers(upper)
    policy.eval()


def batches(frames: int, config: ImitationConfig, round_index: int) -> Iterator[Tensor]:
    """Yield the rows of each gradient step: one shuffled pass over all frames after another."""
    order = torch.Generator().manual_seed(config.seed * 1000 + round_index)
    rows = torch.randperm(frames, generator=order)
    size = min(config.batch_size, frames)
    for _ in range(config.steps):
        if len(rows) < size:
            rows = torch.randperm(frames, generator=order)
        yield rows[:size]
        rows = rows[size:]


def autocast(config: ImitationConfig, device: str) -> contextlib.AbstractContextManager[object]:
    """Return the precision context of a forward pass."""
    if config.amp == "off":
        return contextlib.nullcontext()
    return torch.amp.autocast(device, torch.bfloat16 if config.amp == "bf16" else torch.float16)


def make_optimizer(module: nn.Module, config: ImitationConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the parameters that move."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            module.parameters(), config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(module.parameters(), config.learning_rate, weight_decay=config.weight_decay)


def imitation_loss(scores: Tensor, expert: Tensor, kind: LossKind, expert_kind: ExpertKind = "scores") -> Tensor:
    """Return the loss of scores [N, A] against the expert's scores, probabilities or (scaled) actions [N, A]."""
    if kind == "mse":
        return functional.mse_loss(scores, expert)
    return functional.cross_entropy(scores, expert if expert_kind == "probabilities" else expert.argmax(1))


def join(parts: list[Tensor]) -> Tensor:
    """Return all rounds' tensors as one, and keep only that one in the list."""
    if len(parts) > 1:
        parts[:] = [torch.cat(parts)]
    return parts[0]
