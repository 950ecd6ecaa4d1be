"""What `xfer train` does: load a pretrained network, adapt its head, train what needs training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from xfer import tasks
from xfer.arguments import Common
from xfer.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from xfer.imitate import ImitationConfig
    from xfer.policy import Policy
    from xfer.run_folder import RunConfig, RunFolder
    from xfer.runner import Runner
    from xfer.trajectories import Trajectories


@dataclass(kw_only=True)
class Args(Common):
    """Fine-tune a pretrained network on a task, by imitating its expert.

    The same command on the same folder continues a run that was interrupted, and ends in the same weights.

    Example commands:
      xfer train cartpole --weights imagenet
      xfer train cartpole --weights none --output runs/scratch
      xfer train cartpole --weights runs/simple --train-from layer2 --head spatial-softmax
      xfer train cartpole --tap layer4 --head average --train-from head --optimizer sgd --learning-rate 0.001
        --loss cross-entropy        (the textbook form)
    """

    task: Annotated[str, tyro.conf.Positional]
    """Task to learn: cartpole."""
    output: Path | None = None
    """Folder of the run (default: runs/TASK)."""
    weights: str = "imagenet"
    """Where the network's weights come from: imagenet (torchvision), none, a file, or another run's folder."""
    backbone: str = "resnet18"
    """torchvision network."""
    tap: str = "layer2"
    """Stage that the head reads; later ones are cut off."""
    head: Literal["spatial-softmax", "flatten", "average"] = "spatial-softmax"
    """What takes the place of fc; average is the textbook's global pooling and one linear layer."""
    keypoints: int = 64
    """Feature maps of a spatial softmax."""
    train_from: str = "layer1"
    """First layer that moves: head, layer4, layer3, layer2, layer1 or all; what lies below stays frozen."""
    rounds: int = 10
    """Rounds of collecting and fitting at most; the first is behaviour cloning, the others are DAgger. Training
    stops early when a round reaches the reference return; the best round is kept."""
    frames: int = 1000
    """Frames collected in each round."""
    environments: int = 2
    """Environments that are stepped together; few, so that each gets far into its episodes."""
    expert_noise: float = 0.25
    """Share of random actions in the first round."""
    loss: Literal["mse", "cross-entropy"] = "mse"
    """mse regresses the expert's scores; cross-entropy imitates its hard action."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """sgd has momentum 0.9."""
    learning_rate: float = 3e-3
    """The highest in a round, which warms up to it and anneals to zero."""
    weight_decay: float = 0.01
    """Of the optimiser."""
    batch_size: int = 64
    """Frames in a gradient step."""
    steps: int = 120
    """Gradient steps in each round."""
    eval_episodes: int = 20
    """Episodes of the last evaluation; each round is judged by half as many."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Automatic mixed precision of fitting; fp16 needs CUDA."""
    compile: bool | None = None
    """torch.compile the trained part (default: on CUDA only)."""
    device: str = ""
    """cpu or cuda (default: cuda where there is one)."""
    seed: int = 0
    """Seed of everything."""


def main(args: Args) -> dict[str, Any]:
    """Train, and return the object that ``--json`` prints."""
    import torch
    from rich.console import Console

    from xfer.backbones import load_weights
    from xfer.run_folder import RunFolder

    task = tasks.load(args.task)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no CUDA GPU here. Use --device cpu.")
    if args.amp == "fp16" and device == "cpu":
        raise UsageError("--amp fp16 needs CUDA (its gradients are scaled). Use --amp bf16 or off.")
    for name in ("rounds", "frames", "environments", "batch_size", "steps", "eval_episodes"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1.")
    console = Console()
    folder = RunFolder(args.output or Path("runs") / task.name)
    policy, config = build(args, task, device)
    folder.check(config)  # before a download that would be in vain
    loaded = load_weights(policy.trunk, args.backbone, args.weights)
    if loaded.taken:
        console.print(f"weights: {loaded.taken} tensors from {loaded.source}; left out: {_brief(loaded.left_out)}")
    policy.to(device).eval()
    folder.start(config)
    with folder.held():
        train(folder, config, policy, task, device, args.eval_episodes, console)
    result = folder.result()
    assert result is not None
    console.print(
        f"[bold]{folder.path}[/]: mean return {result.mean:.1f} over {len(result.returns)} fresh episodes,"
        f" {result.frames} frames, {result.seconds / 60:.1f} min.  Next: xfer export {folder.path}"
    )
    return {
        "run": str(folder.path),
        "frames": result.frames,
        "seconds": round(result.seconds, 2),
        "frames_per_second": round(result.frames / result.seconds, 2),
        "eval_return_mean": result.mean,
        "eval_episodes": len(result.returns),
    }


def build(args: Args, task: tasks.Task, device: str) -> tuple[Policy, RunConfig]:
    """Return the policy with random weights, and what decides the rest."""
    import torch

    from xfer.imitate import SCORE_KINDS
    from xfer.policy import Policy, PolicyConfig, make_spec
    from xfer.run_folder import RunConfig

    torch.manual_seed(args.seed)
    policy_config = PolicyConfig(args.backbone, args.tap, args.head, args.keypoints, task.image)
    policy = Policy(policy_config, make_spec(task, task.image, SCORE_KINDS[args.loss]))
    policy.split(args.train_from)  # a wrong name should fail before anything is written
    return policy, RunConfig(task.name, args.weights, policy_config, imitation_config(args, device))


def imitation_config(args: Args, device: str) -> ImitationConfig:
    """Return the part of the arguments that says how to imitate."""
    from xfer.imitate import ImitationConfig

    return ImitationConfig(
        rounds=args.rounds,
        frames=args.frames,
        environments=args.environments,
        expert_noise=args.expert_noise,
        loss=args.loss,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        batch_size=args.batch_size,
        steps=args.steps,
        train_from=args.train_from,
        amp=args.amp,
        compile=device == "cuda" if args.compile is None else args.compile,
        seed=args.seed,
    )


def _brief(names: tuple[str, ...]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def train(
    folder: RunFolder,
    config: RunConfig,
    policy: Policy,
    task: tasks.Task,
    device: str,
    eval_episodes: int,
    console: Console,
) -> None:
    """Run the rounds that are not done yet; then judge the best one anew, and record what it meets."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

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
    task: tasks.Task,
    device: str,
    eval_episodes: int,
    bar: Bar,
) -> None:
    """Collect, fit, evaluate, save; until the rounds are done or the policy is as good as the reference."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from xfer import imitate
    from xfer.checkpoint import load_weights
    from xfer.evaluate import EVALUATION_SEED
    from xfer.run_folder import RoundMetrics

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


def finish(folder: RunFolder, policy: Policy, task: tasks.Task, device: str, eval_episodes: int, bar: Bar) -> None:
    """Take the round that did best, judge it on seeds that nothing else uses, and record what it meets."""
    from xfer.checkpoint import load_weights, save_policy
    from xfer.evaluate import CALIBRATION_SEED, EVALUATION_SEED, HELD_OUT_SEED
    from xfer.run_folder import RunResult

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


def judge(policy: Policy, task: tasks.Task, device: str, seeds: range, bar: Bar, title: str) -> list[float]:
    """Return the policy's return from each seed, ten episodes at a time."""
    from xfer.evaluate import episode_returns

    bar.begin(title, len(seeds))
    returns: dict[int, float] = {}
    for seed, value in episode_returns(task, runner(policy, device, min(len(seeds), 10)), seeds):
        returns[seed] = value
        bar.show(len(returns), f"return {fmean(returns.values()):.1f}")
    return [returns[seed] for seed in seeds]


def runner(policy: Policy, device: str, batch: int = 1) -> Runner:
    """Return the policy, as it is deployed, ready to act."""
    from xfer.runner import Runner
    from xfer.torch_session import TorchSession

    return Runner(TorchSession(policy.deploy().to(device), policy.spec, device), policy.spec, batch)


def record(task: tasks.Task, actor: Runner, seed: int, length: int, stretch: int) -> Trajectories:
    """Return ``length`` observations that ``actor`` meets, from episodes that are cut after ``stretch`` steps."""
    import numpy as np

    from xfer.evaluate import native
    from xfer.trajectories import Trajectories

    env = task.make()
    seen: list[dict[str, np.ndarray]] = []
    resets: list[bool] = []
    while len(seen) < length:
        observations, _ = env.reset(seed=seed)
        actor.reset()
        seed += 1
        for step in range(min(stretch, length - len(seen))):
            seen.append(observations)
            resets.append(step == 0)
            observations, _, terminated, truncated, _ = env.step(native(env, actor.act(observations).action))
            if terminated or truncated:
                break
    env.close()
    return Trajectories({name: np.stack([o[name] for o in seen]) for name in seen[0]}, np.array(resets))


def _ticker(bar: Bar, start: float) -> Callable[[int], None]:
    count = 0

    def tick(frames: int) -> None:
        nonlocal count
        count += frames
        bar.show(count, f"{count / (time.perf_counter() - start):.0f} frames/s")

    return tick
