"""The rounds of a run: collect, fit, evaluate, save; then the best round is judged anew, and what it meets recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch.utils.tensorboard import SummaryWriter

from xfer import imitate
from xfer.checkpoint import load_weights, save_policy
from xfer.evaluate import CALIBRATION_SEED, EVALUATION_SEED, HELD_OUT_SEED, episode_returns, record
from xfer.policy import Policy
from xfer.run_folder import RoundMetrics, RunConfig, RunFolder, RunResult
from xfer.tasks import Task
from xfer.torch_session import runner


def train(
    folder: RunFolder,
    config: RunConfig,
    policy: Policy,
    task: Task,
    device: str,
    eval_episodes: int,
    console: Console,
) -> None:
    """Run the rounds that are not done yet; then judge the best one anew, and record what it meets."""
    if folder.result() is not None:
        console.print(f"{folder.path} is finished already.")
        return
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        run_rounds(folder, config, policy, task, device, max(1, eval_episodes // 2), Bar(progress))
        finish(folder, policy, task, device, eval_episodes, Bar(progress))


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


def run_rounds(
    folder: RunFolder,
    config: RunConfig,
    policy: Policy,
    task: Task,
    device: str,
    eval_episodes: int,
    bar: Bar,
) -> None:
    """Collect, fit, evaluate, save; until the rounds are done or the policy is as good as the reference."""
    imitation, done = config.imitation, folder.rounds()
    if done:
        load_weights(policy, folder.weights_file(len(done) - 1))
        bar.progress.console.print(f"continuing after round {len(done)} of {imitation.rounds}")
    lower, _ = policy.split(imitation.train_from)
    kept = [folder.frames(index) for index in range(len(done))]
    crossed = [imitate.features(lower, frames.seen, device) for frames in kept]
    with SummaryWriter(str(folder.path / "tensorboard"), purge_step=len(done)) as board:
        for index in range(len(done), imitation.rounds):
            if index and folder.rounds()[-1].eval_return >= task.reward.reference_return:
                break  # as good as it gets
            start = time.perf_counter()
            title = f"round {index + 1}/{imitation.rounds}"
            bar.begin(f"{title} collect", imitation.frames)
            fresh = imitate.collect(task, policy, imitation, index, device, _ticker(bar, start))
            kept.append(fresh)
            crossed.append(imitate.features(lower, fresh.seen, device))
            if index == 0:
                policy.fit_standardize(imitation.train_from, crossed[0].to(device))
            inputs, labels = imitate.join(crossed), torch.cat([frames.expert for frames in kept])
            bar.begin(f"{title} fit", None)
            loss = 0.0
            for step, steps, loss in imitate.fit(policy, inputs, labels, imitation, index, device):
                bar.progress.update(bar.task, total=steps, completed=step, note=f"loss {loss:.4f}")
            rate = imitation.frames / (time.perf_counter() - start)
            first = EVALUATION_SEED + 1000
            seeds, more = (range(first + n * eval_episodes, first + (n + 1) * eval_episodes) for n in range(2))
            returns = judge(policy, task, device, seeds, bar, f"{title} evaluate")
            if fmean(returns) >= task.reward.reference_return:  # which ends training: once may have been luck
                returns += judge(policy, task, device, more, bar, f"{title} confirm")
            mean = fmean(returns)
            metrics = RoundMetrics(len(labels), loss, mean, time.perf_counter() - start)
            folder.save_round(fresh, policy, metrics)
            for name, value in (("loss", loss), ("eval_return", mean), ("frames_per_second", rate)):
                board.add_scalar(name, value, metrics.frames)
            bar.progress.console.print(
                f"{title}: {metrics.frames} frames, {rate:.0f} frames/s, loss {loss:.4f}, return {mean:.1f}"
            )


def finish(folder: RunFolder, policy: Policy, task: Task, device: str, eval_episodes: int, bar: Bar) -> None:
    """Take the round that did best, judge it on seeds that nothing else uses, and record what it meets."""
    start = time.perf_counter()
    rounds = folder.rounds()
    best = max(range(len(rounds)), key=lambda index: (rounds[index].eval_return, index))
    load_weights(policy, folder.weights_file(best))
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + eval_episodes)
    returns = judge(policy, task, device, seeds, bar, f"final evaluation (of round {best + 1})")
    # Value ranges want several episodes; regret wants ones that go far.
    for name, first, length, stretch in (
        ("calibration", CALIBRATION_SEED, 256, 64),
        ("held-out", HELD_OUT_SEED, 1000, 250),
    ):
        bar.begin(f"recording {name} observations", None)
        record(task, runner(policy, device), first, length, stretch).save(folder.observations_file(name))
    save_policy(policy, folder.path)
    seconds = sum(r.seconds for r in rounds) + time.perf_counter() - start
    folder.finish(RunResult(rounds[-1].frames, seconds, tuple(returns)))


def judge(policy: Policy, task: Task, device: str, seeds: range, bar: Bar, title: str) -> list[float]:
    """Return the policy's return from each seed, ten episodes at a time."""
    bar.begin(title, len(seeds))
    returns: dict[int, float] = {}
    for seed, value in episode_returns(task, runner(policy, device, min(len(seeds), 10)), seeds):
        returns[seed] = value
        bar.show(len(returns), f"return {fmean(returns.values()):.1f}")
    return [returns[seed] for seed in seeds]


def _ticker(bar: Bar, start: float) -> Callable[[int], None]:
    count = 0

    def tick(frames: int) -> None:
        nonlocal count
        count += frames
        bar.show(count, f"{count / (time.perf_counter() - start):.0f} frames/s")

    return tick
