"""What one round of each algorithm is, in one shape: ``rounds.py`` evaluates and saves around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Protocol

import torch
from rich.progress import Progress
from safetensors.torch import save

from xfer.errors import UsageError
from xfer.models.policy import Policy
from xfer.tasks import Task
from xfer.training import demonstrations, distributed, imitation, ppo
from xfer.training.config import ImitationConfig
from xfer.training.demonstrations import open_dataset
from xfer.training.run_config import RunConfig
from xfer.training.run_folder import FRAMES, TRAINER, RunFolder, frames_bytes
from xfer.training.vector_env import Vectorize, vector_env


class Bar:
    """One progress bar that is used again for each stage of a round."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=None, note="")

    def begin(self, title: str, total: int | None) -> None:
        """Start over, with another title and total."""
        self.progress.reset(self.task, total=total, description=title, note="")

    def show(self, completed: int, note: str) -> None:
        """Move on."""
        self.progress.update(self.task, completed=completed, note=note)


@dataclass(frozen=True)
class Learned:
    """What a round gave besides the policy's weights.

    Attributes:
        frames: Frames collected so far.
        fresh: Those of this round.
        loss: Mean loss at its end.
        kept: Files that later rounds need, by name.
        latest: The same, where a round needs those of the newest only.
        curves: Further measures for TensorBoard, by the frames at which they were taken.
    """

    frames: int
    fresh: int
    loss: float
    kept: Mapping[str, bytes] = field(default_factory=dict)
    latest: Mapping[str, bytes] = field(default_factory=dict)
    curves: tuple[tuple[int, Mapping[str, float]], ...] = ()


class Learner(Protocol):
    """An algorithm at work on a policy."""

    rounds: int

    def restore(self, folder: RunFolder, done: int) -> None:
        """Take up what ``done`` finished rounds left; the policy's weights are those after the last."""

    def round(self, index: int, bar: Bar, title: str) -> Learned:
        """Train for one round."""


@contextmanager
def learner(config: RunConfig, policy: Policy, task: Task, device: str, vectorize: Vectorize) -> Iterator[Learner]:
    """Yield the algorithm that ``config`` asks for, with its environments."""
    if config.ppo is not None:
        with vector_env(task, config.ppo.environments, vectorize) as envs:
            own = replace(config.ppo, seed=distributed.own_seed(config.ppo.seed))
            yield ReinforcementLearner(ppo.Trainer(policy, envs, own, device))
    else:
        assert config.imitation is not None
        own_config = replace(config.imitation, seed=distributed.own_seed(config.imitation.seed))
        yield ImitationLearner(policy, task, own_config, device, config.demonstrations)


def kept_bytes(config: RunConfig, policy: Policy, demonstrated: int = 0) -> int:
    """Return how much memory the frames take that are kept for training at the same time.

    Of each frame: features and vectors, float32; imitation keeps the trunk's input as well.
    The first round of imitation has ``demonstrated`` frames, where there are demonstrations.
    """
    settings = config.ppo or config.imitation
    assert settings is not None
    frozen, _ = policy.split(settings.train_from)
    seen = torch.zeros(1, 3, *policy.config.image.size, device=policy.preprocess.bias.device)
    with torch.inference_mode():
        numbers = int(frozen.eval()(seen).numel()) + policy.vector_size
    if isinstance(settings, ImitationConfig):
        frames = (demonstrated or settings.frames) + (settings.rounds - 1) * settings.frames
        return 4 * frames * (numbers + seen.numel())
    return 4 * settings.batch * numbers


def check_memory(config: RunConfig, policy: Policy, limit_gib: float, demonstrated: int = 0) -> float:
    """Return the GiB that are kept.

    Raises:
        UsageError: If they are more than allowed, with what to lower.
    """
    gib = kept_bytes(config, policy, demonstrated) / 2**30
    if gib > limit_gib:
        fix = "--frames or --rounds" if config.ppo is None else "--rollout-steps or --environments"
        raise UsageError(
            f"The features that are kept would take {gib:.2g} GiB, more than --memory-gib {limit_gib:g}."
            f" Lower {fix}, choose a later --train-from, or raise --memory-gib."
        )
    return gib


class ImitationLearner:
    """Behavior cloning, then DAgger: all frames so far are fitted in every round."""

    def __init__(
        self,
        policy: Policy,
        task: Task,
        config: ImitationConfig,
        device: str,
        demonstrations: str | None = None,
    ) -> None:
        self.policy, self.task, self.config, self.device = policy, task, config, device
        self.demonstrations = demonstrations
        self.rounds = config.rounds
        self.frozen, _ = policy.split(config.train_from)
        self.kept: list[imitation.Frames] = []
        self.features: list[torch.Tensor] = []

    def restore(self, folder: RunFolder, done: int) -> None:
        """Read all frames, and compute their features anew."""
        self.kept = [folder.frames(index, own_file(FRAMES)) for index in range(done)]
        self.features = [imitation.compute_features(self.frozen, frames.seen, self.device) for frames in self.kept]

    def round(self, index: int, bar: Bar, title: str) -> Learned:
        """Collect and fit."""
        policy, config = self.policy, self.config
        fresh = self._collect(index, bar, title)
        self.kept.append(fresh)
        self.features.append(imitation.compute_features(self.frozen, fresh.seen, self.device))
        if index == 0:
            policy.fit_standardize(config.train_from, self.features[0].to(self.device), fresh.vector.to(self.device))
        inputs, labels = imitation.join(self.features), torch.cat([frames.expert for frames in self.kept])
        vector = torch.cat([frames.vector for frames in self.kept]) if policy.vector_size else None
        ordered = policy.config.memory_units or policy.config.horizon > 1
        episodes = imitation.episodes(self.kept) if ordered else []
        bar.begin(f"{title} fit", None)
        loss, kind = 0.0, self.task.expert_kind
        fitting = imitation.fit(policy, inputs, labels, config, index, self.device, vector, kind, episodes)
        for step, steps, loss in fitting:
            bar.progress.update(bar.task, total=steps, completed=step, note=f"loss {loss:.4f}")
        return Learned(len(labels), len(fresh.seen), loss, kept={own_file(FRAMES): frames_bytes(fresh)})

    def _collect(self, index: int, bar: Bar, title: str) -> imitation.Frames:
        """Return a round's frames; the first round's are the demonstrations, where there are any."""
        if index or self.demonstrations is None:
            bar.begin(f"{title} collect", self.config.frames)
            return imitation.collect(self.task, self.policy, self.config, index, self.device, _ticker(bar))
        dataset = open_dataset(self.demonstrations, self.task)
        bar.begin(f"{title} read", dataset.total_steps)
        return demonstrations.frames(dataset, self.policy, self.task, self.device, _ticker(bar))


class ReinforcementLearner:
    """PPO: a round is some of its updates."""

    def __init__(self, trainer: ppo.Trainer) -> None:
        self.trainer, self.config = trainer, trainer.config
        self.rounds = trainer.config.rounds

    def restore(self, folder: RunFolder, done: int) -> None:
        """Read critic and optimizer."""
        self.trainer.load_state(folder.tensors(done - 1, TRAINER))

    def round(self, index: int, bar: Bar, title: str) -> Learned:
        """Collect and update, several times."""
        updates, batch = self.config.updates_of(index), self.config.batch
        fresh = (len(updates) + (index == 0)) * batch  # the first rollout of all measures scales
        bar.begin(title, fresh)
        curves = []
        losses = []
        for number, measures in zip(updates, self.trainer.round(index, _ticker(bar)), strict=True):
            curves.append(((number + 2) * batch, measures))
            losses.append(measures["loss"])
        return Learned(
            (updates.stop + 1) * batch,
            fresh,
            fmean(losses),
            latest={TRAINER: save(self.trainer.state())},
            curves=tuple(curves),
        )


def own_file(name: str) -> str:
    """Return what this rank calls a file of which each has its own."""
    return f"rank{distributed.rank()}-{name}" if distributed.rank() else name


def _ticker(bar: Bar) -> Callable[[int], None]:
    count, start = 0, time.perf_counter()

    def tick(frames: int) -> None:
        nonlocal count
        count += frames
        bar.show(count, f"{count / (time.perf_counter() - start):.0f} frames/s")

    return tick
