"""The rounds of a run: learn, evaluate, save; then evaluate the best round anew, and record its observations."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch.utils.tensorboard import SummaryWriter

from xfer.evaluate import CALIBRATION_SEED, EVALUATION_SEED, HELD_OUT_SEED, episode_returns, record_to
from xfer.models.checkpoint import load_weights, save_policy
from xfer.models.policy import Policy
from xfer.models.torch_session import runner
from xfer.tasks import Task
from xfer.training import distributed
from xfer.training.learners import Bar, Learner, learner
from xfer.training.run_config import RunConfig
from xfer.training.run_folder import RoundMetrics, RunFolder, RunResult
from xfer.training.vector_env import Vectorize

ROUND_SEED = EVALUATION_SEED + 1000
"""Seeds from here on judge each round; those before them, the finished policy."""

RECORDED = {"calibration": (CALIBRATION_SEED, 256, 64), "held-out": (HELD_OUT_SEED, 1000, 250)}
"""What is recorded of the finished policy: first seed, how many observations, at most how many of one episode."""


def run(
    folder: RunFolder,
    config: RunConfig,
    policy: Policy,
    task: Task,
    device: str,
    eval_episodes: int,
    console: Console,
    vectorize: Vectorize = "auto",
    until_success: float | None = None,
) -> None:
    """Run the rounds that are not done yet; then evaluate the best one anew, and record its observations."""
    if folder.result() is not None:
        console.print(f"{folder.path} is finished already.")
        return
    with (
        learner(config, policy, task, device, vectorize) as learns,
        Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        ) as progress,
    ):
        run_rounds(folder, learns, policy, task, device, max(1, eval_episodes // 2), Bar(progress), until_success)
        if distributed.rank() == 0:
            finish(folder, policy, task, device, eval_episodes, Bar(progress))
        distributed.wait()


def run_rounds(
    folder: RunFolder,
    learner: Learner,
    policy: Policy,
    task: Task,
    device: str,
    eval_episodes: int,
    bar: Bar,
    until_success: float | None = None,
) -> None:
    """Learn, evaluate, save; until the rounds are done or the policy is good enough.

    That is when it is as good as the reference; or, with ``until_success``, when that share of the episodes succeeded
    in each of the last two rounds.
    """
    done = folder.rounds()
    enough = task.reward.reference_return if task.reward and until_success is None else math.inf
    if done:
        load_weights(policy, folder.weights_file(len(done) - 1))
        learner.restore(folder, len(done))
        bar.progress.console.print(f"continuing after round {len(done)} of {learner.rounds}")
    with _board(folder, done) as board:
        for index in range(len(done), learner.rounds):
            if index and folder.rounds()[-1].eval_return >= enough:
                break  # as good as it gets
            if until_success is not None and held(folder.rounds(), until_success):
                break
            start = time.perf_counter()
            title = f"round {index + 1}/{learner.rounds}"
            learned = learner.round(index, bar, title)
            rate = learned.fresh / (time.perf_counter() - start)
            if board is None:
                folder.keep(index, learned.kept)
            distributed.wait()  # until every rank has written what it needs to go on
            if board is not None:
                starts = (ROUND_SEED, ROUND_SEED + eval_episodes)
                seeds, more = (range(start, start + eval_episodes) for start in starts)
                returns = judge(policy, task, device, seeds, bar, f"{title} evaluate")
                if fmean(returns) >= enough:  # which ends training: once may have been luck
                    returns += judge(policy, task, device, more, bar, f"{title} confirm")
                mean, many = fmean(returns), distributed.size()
                seconds, success = time.perf_counter() - start, None
                if task.success is not None:
                    success = fmean(value >= task.success for value in returns)
                metrics = RoundMetrics(learned.frames * many, learned.loss, mean, seconds, success)
                folder.save_round(policy, metrics, learned.kept, learned.latest)
                for frames, values in (
                    *learned.curves,
                    (learned.frames, {"loss": learned.loss, "eval_return": mean, "frames_per_second": rate * many}),
                ):
                    for name, value in values.items():
                        board.add_scalar(name, value, frames * many)
                bar.progress.console.print(
                    f"{title}: {metrics.frames} frames, {rate * many:.0f} frames/s, loss {metrics.loss:.4f},"
                    f" return {mean:.4g}" + ("" if success is None else f", success {success:.0%}")
                )
            distributed.wait()  # until the round is saved


def held(rounds: Sequence[RoundMetrics], success: float) -> bool:
    """Whether this share of the episodes succeeded in each of the last two rounds."""
    return len(rounds) > 1 and all(r.success is not None and r.success >= success for r in rounds[-2:])


def _board(folder: RunFolder, done: list[RoundMetrics]) -> AbstractContextManager[SummaryWriter | None]:
    """Return what draws curves; only the first rank, which judges and saves, has one."""
    if distributed.rank():
        return nullcontext()
    return SummaryWriter(str(folder.path / "tensorboard"), purge_step=done[-1].frames + 1 if done else None)


def finish(folder: RunFolder, policy: Policy, task: Task, device: str, eval_episodes: int, bar: Bar) -> None:
    """Take the best round, evaluate it on seeds that nothing else uses, and record its observations."""
    start = time.perf_counter()
    rounds = folder.rounds()
    best = max(range(len(rounds)), key=lambda index: (rounds[index].eval_return, index))
    load_weights(policy, folder.weights_file(best))
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + eval_episodes)
    returns = judge(policy, task, device, seeds, bar, f"final evaluation (of round {best + 1})")
    # Value ranges want several episodes; regret wants ones that go far.
    for name, (first, length, stretch) in RECORDED.items():
        bar.begin(f"recording {name} observations", None)
        record_to(folder.observations_file(name), task, runner(policy, device), first, length, stretch)
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
