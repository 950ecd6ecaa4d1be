"""What `xfer train` does: load a pretrained network, adapt its head, train what needs training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from xfer import tasks
from xfer.arguments import Common
from xfer.errors import UsageError

if TYPE_CHECKING:
    from xfer.imitate import ImitationConfig
    from xfer.policy import Policy
    from xfer.run_folder import RunConfig


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
    from xfer.rounds import train
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
