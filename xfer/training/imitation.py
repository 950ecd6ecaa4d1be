"""Imitation: behavior cloning, then DAgger (Ross, Gordon & Bagnell 2011). One file, read top to bottom.

In the first round the expert drives, with noise in its actions; from then on the policy
drives and the expert says what it would have done. After each round the policy is fitted to all frames so far.
The features of the frozen part are computed once a frame and kept, so an epoch costs only what is trained.
A round depends on nothing but the seed, the weights and the frames before it; so a run that was
killed is continued from its last whole round, to the same weights.

A policy that plans ahead learns what the expert said of each frame and of the next ones of its episode, as many as its
chunks are long. It drives as it will be deployed: what it planned is acted before it plans anew.

A policy with a memory learns from sequences instead of single frames, by truncated backpropagation through time
(Williams & Peng 1990): gradients end where a sequence does, the recurrent state goes on into the next.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xfer.errors import UsageError
from xfer.evaluate import native
from xfer.models.contract import from_action, to_action
from xfer.models.policy import Policy, Trainable
from xfer.runner.queue import make_queue
from xfer.runner.session import Step
from xfer.tasks import ExpertKind, Task
from xfer.tasks._environment import Environment
from xfer.training import distributed
from xfer.training.config import ImitationConfig, LossKind

REPORT_EVERY = 50
"""Gradient steps between two reports of the loss."""


class Frames(NamedTuple):
    """What a round collected.

    Attributes:
        seen: The trunk's inputs, float32 [N, 3, h, w]; of several cameras packed, as ``Policy.seen`` says.
        expert: What the expert said, float32 [N, A]: scores, probabilities, or actions in the environment's units.
        vector: The observations' vectors, float32 [N, D]; D is 0 where a task has none.
        episode: Number of each frame's episode, int64 [N]; an episode's frames stand in the order of time.
    """

    seen: Tensor
    expert: Tensor
    vector: Tensor = torch.zeros(0, 0)  # nothing was kept of it before there were vectors,
    episode: Tensor = torch.zeros(0, dtype=torch.int64)  # nor of this before there were memories


def collect(
    task: Task,
    policy: Policy,
    config: ImitationConfig,
    round_index: int = 0,
    device: str = "cpu",
    tick: Callable[[int], None] = lambda frames: None,
) -> Frames:
    """Drive several environments together and ask the expert about every frame.

    Args:
        task: A task with an expert.
        policy: What drives, except in round 0.
        config: How much.
        round_index: Which round, from 0; it decides the seeds.
        device: Where the policy is.
        tick: Called with the number of frames after each step.

    Raises:
        UsageError: If the task has no expert, or a value does not fit.
        TaskError: If an environment fails.
    """
    config.check()
    if task.expert is None:
        raise UsageError(f"Task {task.name} has no expert to imitate.")
    rng = np.random.default_rng([config.seed, round_index])
    environments = [Environment(task) for _ in range(config.environments)]
    seeds = rng.integers(2**19, size=len(environments))  # evaluation's seeds lie above these
    shown = [env.reset(seed=int(seed))[0] for env, seed in zip(environments, seeds, strict=True)]
    history = torch.zeros(len(environments), *policy.history_shape, device=device)
    memory = torch.zeros(len(environments), policy.config.memory_units, device=device)
    queue = make_queue(policy.spec, len(environments))
    begins = torch.ones(len(environments), dtype=torch.bool, device=device)
    numbers = itertools.count()
    episode = [next(numbers) for _ in environments]
    kept: list[Frames] = []
    for _ in range(config.frames // len(environments)):
        expert = np.stack([env.advice() for env in environments])
        with torch.inference_mode():
            raw = {name: np.stack([observations[name] for observations in shown]) for name in shown[0]}
            tensors = {name: torch.from_numpy(array).to(device) for name, array in raw.items()}
            history = policy.begun(tensors, history, begins)
            seen, history = policy.see(tensors, history)
            vector = policy.vector(tensors)
            if round_index == 0:
                chosen = with_noise(expert, task, config.expert_noise, rng)
            else:
                scores, memory = policy.step(seen, vector, memory)
                chosen = to_action(scores, policy.spec).cpu().numpy()
                if queue is not None:
                    chosen = queue.next(Step(chosen, scores.cpu().numpy(), {})).action
        kept.append(Frames(seen.cpu(), torch.from_numpy(expert), vector.cpu(), torch.tensor(episode)))
        begins = torch.zeros_like(begins)
        for i, env in enumerate(environments):
            shown[i], _, terminated, truncated, _ = env.step(native(env, chosen[i]))
            if terminated or truncated:
                shown[i], _ = env.reset()
                begins[i] = True
                episode[i] = next(numbers)
        memory = memory.masked_fill(begins[:, None], 0)
        if queue is not None:
            queue.reset(begins.cpu().numpy())
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


def compute_features(frozen: nn.Module, seen: Tensor, device: str = "cpu", batch_size: int = 128) -> Tensor:
    """Return the frozen part's features of the trunk's inputs [N, 3, h, w]: float32 [N, ...] on the CPU."""
    frozen.eval()
    with torch.inference_mode():
        parts = [frozen(part.to(device)).cpu() for part in seen.split(batch_size)]
    return torch.cat(parts)


def fit(
    policy: Policy,
    features: Tensor,
    expert: Tensor,
    config: ImitationConfig,
    round_index: int = 0,
    device: str = "cpu",
    vector: Tensor | None = None,
    expert_kind: ExpertKind = "scores",
    episodes: Sequence[Tensor] = (),
) -> Iterator[tuple[int, int, float]]:
    """Fit the trained part to all frames so far; yield (step, all steps, mean loss since the last yield).

    The frozen part keeps its weights, and its batch norm the statistics.

    Args:
        policy: Changed in place.
        features: What ``compute_features`` gave for all frames.
        expert: What the expert said of them, float32 [N, A].
        config: How.
        round_index: Which round; it decides the order of the frames.
        device: Where to compute.
        vector: Their vectors, float32 [N, D], if the policy reads any.
        expert_kind: What ``expert`` is: ``Task.expert_kind``.
        episodes: What the function of that name gave for all frames, if the policy has a memory or plans ahead.

    Raises:
        UsageError: If a value does not fit, or the loss is not for this kind of action.
    """
    config.check()
    continuous = policy.spec.action.kind == "continuous"
    if continuous and config.loss != "mse":
        raise UsageError(f"--loss {config.loss} is for discrete actions; those of {policy.spec.task} take mse.")
    targets = from_action(expert, policy.spec) if continuous else expert
    frozen, trainable = policy.split(config.train_from)
    frozen.requires_grad_(False).eval()
    trainable.requires_grad_(True).train()
    # Convolutions train about a quarter faster so; everything else sees the usual layout (see the end).
    trainable.to(memory_format=torch.channels_last)
    recurrent = bool(policy.config.memory_units)
    optimizer = make_optimizer(trainable, config)
    # Warm up, then anneal: a round that starts at the full rate can kill a network for good.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps + 1, cycle_momentum=False
    )
    # compile wraps, it does not replace: what is saved is the module underneath.
    joint = distributed.parallel(Unrolled(trainable) if recurrent else trainable)
    predict: Callable[..., Any] = torch.compile(joint, dynamic=False) if config.compiles(device) else joint
    scaler = torch.amp.GradScaler(device, enabled=config.amp == "fp16")
    order: Iterator[tuple[Tensor, Tensor | None]] = zip(
        batches(len(expert), config, round_index), itertools.repeat(None), strict=False
    )
    if recurrent:
        order = sequences(episodes, config, round_index)
    later = None if policy.config.horizon == 1 else following(episodes, len(expert), policy.config.horizon)
    memory = torch.zeros(config.streams, policy.config.memory_units, device=device)
    losses: list[float] = []
    for step, (rows, begins) in enumerate(order, start=1):
        inputs = features[rows].to(device, memory_format=torch.channels_last, non_blocking=True)
        beside = None if vector is None else vector[rows].to(device, non_blocking=True)
        if later is None:
            wanted = targets[rows].to(device, non_blocking=True)
        else:
            ahead = later[rows]
            wanted, known = targets[ahead.clamp_min(0)].to(device), (ahead >= 0).to(device)
        with autocast(config, device):
            if begins is None:
                scores = predict(inputs, beside)
            else:
                scores, memory = predict(inputs, beside, memory, begins.to(device))
        if later is not None:  # what lies behind an episode's end is no loss
            scores, wanted = scores[known], wanted[known]
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
    trainable.to(memory_format=torch.contiguous_format)
    distributed.average_buffers(trainable)
    policy.eval()


class Unrolled(nn.Module):
    """The trained part of a policy with a memory, over T steps of S episodes at once.

    Args:
        trainable: The policy's trainable part.

    Shape:
        Features [T * S, ...], vectors [T * S, D] (or None), the memory before, [S, M], and where episodes
        begin, bool [T, S], to scores [T * S, A] and the memory afterwards.
    """

    def __init__(self, trainable: Trainable) -> None:
        super().__init__()
        self.trainable = trainable

    def forward(self, features: Tensor, vector: Tensor | None, memory: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores, and a memory that no gradient goes back through."""
        cell = self.trainable.head.memory
        assert cell is not None, "this policy has no memory"
        states = []
        for hidden, begun in zip(
            self.trainable.hidden(features, vector).unflatten(0, begins.shape), begins, strict=True
        ):
            memory = cell(hidden, memory.masked_fill(begun[:, None], 0))
            states.append(memory)
        return self.trainable.readout(torch.cat(states)), memory.detach()


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


def sequences(
    episodes: Sequence[Tensor], config: ImitationConfig, round_index: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the rows of each gradient step, int64 [T * S], and where episodes begin, bool [T, S].

    Each of S readers goes through an episode from its first frame to its last, then takes the next from one shuffled
    queue; so the recurrent state goes on from one gradient step to the next.
    """
    assert episodes, "a memory learns from episodes"
    order = torch.Generator().manual_seed(config.seed * 1000 + round_index)
    queue = (episodes[i] for _ in itertools.count() for i in torch.randperm(len(episodes), generator=order).tolist())
    readers = [((row, t == 0) for e in queue for t, row in enumerate(e.tolist())) for _ in range(config.streams)]
    for _ in range(config.steps):
        table = torch.tensor([[next(reader) for reader in readers] for _ in range(config.unroll)])
        yield table[..., 0].flatten(), table[..., 1].bool()


def episodes(kept: Sequence[Frames]) -> list[Tensor]:
    """Return the rows of each episode, in the order of time, among all rounds' frames one after the other."""
    found: list[Tensor] = []
    before = 0
    for frames in kept:
        lengths = frames.episode.unique(return_counts=True)[1]
        found += (frames.episode.argsort(stable=True) + before).split(lengths.tolist())
        before += len(frames.episode)
    return found


def following(episodes: Sequence[Tensor], frames: int, horizon: int) -> Tensor:
    """Return the row of each frame and of the next ones of its episode, int64 [N, H]; -1 behind the episode's end.

    Args:
        episodes: What the function of that name gave.
        frames: How many there are, N.
        horizon: How many rows for each, H.
    """
    rows = torch.full((frames, horizon), -1)
    for episode in episodes:
        for ahead in range(min(horizon, len(episode))):
            rows[episode[: len(episode) - ahead], ahead] = episode[ahead:]
    return rows


def autocast(config: ImitationConfig, device: str) -> contextlib.AbstractContextManager[object]:
    """Return the precision context of a forward pass."""
    if config.amp == "off":
        return contextlib.nullcontext()
    return torch.amp.autocast(device, torch.bfloat16 if config.amp == "bf16" else torch.float16)


def make_optimizer(module: nn.Module, config: ImitationConfig) -> torch.optim.Optimizer:
    """Return the optimizer over the trainable parameters."""
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
