"""What `xfer train` does: load a pretrained network, adapt its head, train what needs training."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from xfer import tasks
from xfer.commands import Common
from xfer.errors import UsageError
from xfer.models.policy import NETWORK

if TYPE_CHECKING:
    from xfer.models.policy import Policy
    from xfer.training.imitation import ImitationConfig
    from xfer.training.ppo import PPOConfig
    from xfer.training.run_folder import RunConfig


IMITATION: dict[str, Any] = {
    "rounds": 10,
    "frames": 1000,
    "environments": 2,
    "expert_noise": 0.25,
    "loss": "mse",
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "batch_size": 64,
    "steps": 120,
    "unroll": 16,
}
PPO: dict[str, Any] = {
    "rounds": 10,
    "total_frames": 100_000,
    "environments": 8,
    "rollout_steps": 128,
    "update_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "anneal_lr": True,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_coef": 0.2,
    "norm_adv": True,
    "clip_vloss": False,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "target_kl": 0.02,
    "reward_scale": 1.0,
}
DEFAULTS = {"imitation": IMITATION, "ppo": PPO}
"""The same for each algorithm's own options."""


def _default(name: str) -> Any:
    """Return what ``--help`` says where an option's value depends on task and algorithm."""
    values = {key: table[name] for key, table in {**DEFAULTS, "": NETWORK}.items() if name in table}
    words = [f"{key} {value}" for key, value in values.items()]
    if len(set(values.values())) == 1:
        words = [str(next(iter(values.values())))]
    return tyro.conf.arg(help_behavior_hint=f"(default: {', '.join(words)}; or the task's)")


@dataclass(kw_only=True)
class Args(Common):
    """Fine-tune a pretrained network on a task: by imitating its expert, or by reinforcement learning (PPO).

    The same command on the same folder continues a run that was interrupted, and ends in the same weights.
    A task brings defaults of its own; what is given here comes before them.

    Example commands:
      xfer train cartpole --weights imagenet
      xfer train cartpole --weights none --output runs/scratch
      xfer train cartpole --weights runs/simple --train-from layer2 --head spatial-softmax
      xfer train cartpole --tap layer4 --head average --train-from head --optimizer sgd --learning-rate 0.001
        --loss cross-entropy        (the textbook form)
      xfer train cartpole --demonstrations cartpole/expert-v0 --weights none --steps 2000
      xfer train driving --memory gru --memory-size 128
      xfer train cartpole --algorithm ppo --total-frames 200000 --environments 8
      xfer train navigation:empty --algorithm ppo --weights runs/simple --train-from layer2
      xfer train my_robot:task --algorithm ppo --environments 16 --rollout-steps 64 --gamma 0.98
    """

    task: Annotated[str, tyro.conf.Positional]
    """Task to learn: cartpole, navigation:fourrooms, gym:Acrobot-v1 ..., or module:function of your own."""
    algorithm: Literal["auto", "imitation", "ppo"] = "auto"
    """auto: imitation where the task has an expert, else ppo."""
    output: Path | None = None
    """Folder of the run (default: runs/TASK)."""
    weights: str = "imagenet"
    """Where the network's weights come from: imagenet (torchvision), none, a file, or another run's folder."""
    demonstrations: str | None = None
    """Imitation: Minari dataset (its name, or a folder; see xfer record) that the first round learns from. It is then
    the only round, unless --rounds asks for more: those go on with the task's expert."""
    backbone: Annotated[str | None, _default("backbone")] = None
    """torchvision network."""
    tap: Annotated[str | None, _default("tap")] = None
    """Stage that the head reads; later ones are cut off."""
    head: Annotated[Literal["spatial-softmax", "flatten", "average"] | None, _default("head")] = None
    """What takes the place of fc; average is the textbook's global pooling and one linear layer."""
    keypoints: Annotated[int | None, _default("keypoints")] = None
    """Feature maps of a spatial softmax."""
    hidden: Annotated[tuple[int, ...] | None, _default("hidden")] = None
    """Sizes of hidden layers between the head and the scores."""
    memory: Annotated[Literal["none", "gru"] | None, _default("memory")] = None
    """What the policy remembers of an episode besides the frames that it sees at once: nothing, or what a GRU between
    head and scores keeps. Imitation trains it."""
    memory_size: Annotated[int | None, _default("memory_size")] = None
    """Units of --memory gru."""
    train_from: Annotated[str | None, _default("train_from")] = None
    """First layer that moves: head, layer4, layer3, layer2, layer1 or all; what lies below stays frozen."""
    rounds: Annotated[int | None, _default("rounds")] = None
    """Rounds at most; each ends with an evaluation. Training stops early when a round reaches the reference return;
    the best round is kept. Imitation collects and fits in each (the first is behavior cloning, the others are
    DAgger); PPO divides its updates among them."""
    environments: Annotated[int | None, _default("environments")] = None
    """Environments that are stepped together. Imitation wants few, so that each gets far into its episodes."""
    learning_rate: Annotated[float | None, _default("learning_rate")] = None
    """The highest: imitation warms up to it and anneals to zero in each round, PPO anneals over all updates."""
    frames: Annotated[int | None, _default("frames")] = None
    """Imitation: frames collected in each round."""
    expert_noise: Annotated[float | None, _default("expert_noise")] = None
    """Imitation: share of random actions in the first round."""
    loss: Annotated[Literal["mse", "cross-entropy"] | None, _default("loss")] = None
    """Imitation: mse regresses the expert's scores; cross-entropy imitates its hard action."""
    optimizer: Annotated[Literal["sgd", "adamw"] | None, _default("optimizer")] = None
    """Imitation: sgd has momentum 0.9."""
    weight_decay: Annotated[float | None, _default("weight_decay")] = None
    """Imitation: of the optimizer."""
    batch_size: Annotated[int | None, _default("batch_size")] = None
    """Imitation: frames in a gradient step."""
    steps: Annotated[int | None, _default("steps")] = None
    """Imitation: gradient steps in each round."""
    unroll: Annotated[int | None, _default("unroll")] = None
    """Imitation: steps that gradients go back in time through --memory gru; --batch-size divides into as many."""
    total_frames: Annotated[int | None, _default("total_frames")] = None
    """PPO: frames of experience at most, over all environments."""
    rollout_steps: Annotated[int | None, _default("rollout_steps")] = None
    """PPO: steps of each environment between two updates."""
    update_epochs: Annotated[int | None, _default("update_epochs")] = None
    """PPO: passes over each rollout."""
    num_minibatches: Annotated[int | None, _default("num_minibatches")] = None
    """PPO: gradient steps in each pass."""
    anneal_lr: Annotated[bool | None, _default("anneal_lr")] = None
    """PPO: whether the learning rate falls to zero."""
    gamma: Annotated[float | None, _default("gamma")] = None
    """PPO: discount."""
    gae_lambda: Annotated[float | None, _default("gae_lambda")] = None
    """PPO: lambda of generalized advantage estimation."""
    clip_coef: Annotated[float | None, _default("clip_coef")] = None
    """PPO: how far the probability ratio may leave 1."""
    norm_adv: Annotated[bool | None, _default("norm_adv")] = None
    """PPO: whether advantages are normalized in each minibatch."""
    clip_vloss: Annotated[bool | None, _default("clip_vloss")] = None
    """PPO: whether values are clipped as ratios are."""
    ent_coef: Annotated[float | None, _default("ent_coef")] = None
    """PPO: weight of the entropy bonus."""
    vf_coef: Annotated[float | None, _default("vf_coef")] = None
    """PPO: weight of the value loss."""
    max_grad_norm: Annotated[float | None, _default("max_grad_norm")] = None
    """PPO: the gradient's norm is cut down to this."""
    target_kl: Annotated[float | None, _default("target_kl")] = None
    """PPO: an update ends after the epoch whose approximate KL divergence exceeds this; 0 never ends it."""
    reward_scale: Annotated[float | None, _default("reward_scale")] = None
    """PPO: what rewards are multiplied by before learning."""
    eval_episodes: int = 20
    """Episodes of the last evaluation; each round is judged by half as many."""
    until_success: float | None = None
    """End once this share of a round's episodes succeeds in two rounds in a row, instead of at the reference return."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Automatic mixed precision; fp16 needs CUDA."""
    compile: bool | None = None
    """torch.compile the trained part, and for PPO the frozen one as well (default: on CUDA only)."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """PPO: mode of torch.compile; reduce-overhead records CUDA graphs."""
    vectorize: Literal["auto", "sync", "async"] = "auto"
    """PPO: async steps each environment in a process of its own; the weights come out equal."""
    memory_gib: float = 8.0
    """What may be kept of frames for training (PPO: of a rollout; imitation: of all rounds)."""
    device: str = ""
    """cpu or cuda (default: cuda where there is one)."""
    seed: int = 0
    """Seed of everything."""


def main(args: Args) -> dict[str, Any]:
    """Train, and return the object that ``--json`` prints."""
    import torch
    from rich.console import Console

    from xfer.models.pretrained import load_weights
    from xfer.training import distributed
    from xfer.training.demonstrations import open_dataset
    from xfer.training.learners import check_memory
    from xfer.training.rounds import train
    from xfer.training.run_folder import RunFolder

    task = tasks.load(args.task)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no CUDA GPU here. Use --device cpu.")
    if args.amp == "fp16" and device == "cpu":
        raise UsageError("--amp fp16 needs CUDA (its gradients are scaled). Use --amp bf16 or off.")
    check(args)
    console = Console()
    folder = RunFolder(args.output or Path("runs") / task.name.replace(":", "-"))
    with distributed.group(device):
        policy, config = build(args, task, device)
        folder.check(config)  # before a download that would be in vain
        demonstrated = 0
        if args.demonstrations is not None:
            demonstrated = open_dataset(args.demonstrations, task).total_steps
        loaded = load_weights(policy, args.weights)
        if loaded.taken:
            console.print(f"weights: {loaded}", markup=False)
        policy.to(device).eval()
        gib = check_memory(config, policy, args.memory_gib, demonstrated)
        console.print(f"features that are kept: {1024 * gib:.3g} MiB at most")
        if distributed.rank() == 0:
            folder.start(config)
        distributed.wait()  # until it is there
        with folder.held() if distributed.rank() == 0 else nullcontext():
            train(folder, config, policy, task, device, args.eval_episodes, console, args.vectorize, args.until_success)
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


def check(args: Args) -> None:
    """Refuse options that do not fit.

    Raises:
        UsageError: If one is too small, or belongs to the other algorithm.
    """
    algorithm, task = algorithm_of(args), tasks.load(args.task)
    if algorithm == "imitation" and task.expert is None and args.demonstrations is None:
        raise UsageError(f"Task {task.name} has no expert to imitate. Use --algorithm ppo, or --demonstrations.")
    if args.demonstrations is not None:
        check_demonstrations(args, task)
    check_gru(args)
    if args.until_success is not None and task.success is None:
        raise UsageError(f"Task {task.name} does not say what success is, so --until-success has no meaning.")
    for name, value in vars(args).items():
        option = f"--{name.replace('_', '-')}"
        if type(value) is int and value < 1 and name != "seed":
            raise UsageError(f"{option} must be at least 1.")
        others = set().union(*DEFAULTS.values()) - DEFAULTS[algorithm].keys()
        if name in others and value is not None:
            raise UsageError(f"{option} is no option of --algorithm {algorithm}.")


def check_gru(args: Args) -> None:
    """Refuse a memory where it cannot be trained, and its options where there is none.

    Raises:
        UsageError: If so.
    """
    chosen = settings(args)
    if chosen["memory"] == "none":
        for name in ("memory_size", "unroll"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is an option of --memory gru.")
    elif algorithm_of(args) == "ppo":
        raise UsageError("--algorithm ppo does not train --memory gru. Use --algorithm imitation, or no memory.")
    elif chosen["unroll"] > chosen["batch_size"]:
        raise UsageError(f"--unroll {chosen['unroll']} needs --batch-size {chosen['unroll']} at least.")


def check_demonstrations(args: Args, task: tasks.Task) -> None:
    """Refuse what cannot be done with demonstrations.

    Raises:
        UsageError: If it is PPO, or rounds that would need an expert, or another kind of one.
    """
    if algorithm_of(args) == "ppo":
        raise UsageError("--demonstrations is no option of --algorithm ppo.")
    chosen = settings(args)
    if chosen["rounds"] > 1 and task.expert is None:
        raise UsageError(f"Task {task.name} has no expert to go on with after the demonstrations. Use --rounds 1.")
    if chosen["rounds"] > 1 and task.expert_kind == "scores" and chosen["loss"] == "mse":
        raise UsageError("--loss mse cannot mix recorded actions with an expert's scores. Use cross-entropy.")


def algorithm_of(args: Args) -> str:
    """Return ``imitation`` or ``ppo``."""
    if args.algorithm != "auto":
        return args.algorithm
    return "imitation" if args.demonstrations is not None or tasks.load(args.task).expert is not None else "ppo"


def settings(args: Args) -> dict[str, Any]:
    """Return every option's value: what was given, else what the task brings, else the default."""
    algorithm, task = algorithm_of(args), tasks.load(args.task)
    brought = dict(task.defaults)
    own = brought.pop("ppo", {})
    if algorithm == "ppo":  # a task's values for imitation are no good for it
        brought = {name: value for name, value in brought.items() if name in NETWORK} | dict(own)
    if args.demonstrations is not None:  # what was recorded are actions, not an expert's scores
        brought |= {"rounds": 1} | ({"loss": "cross-entropy"} if task.action.kind == "discrete" else {})
    given = {name: value for name, value in vars(args).items() if value is not None}
    return {**NETWORK, **DEFAULTS[algorithm], **brought, **given}


def build(args: Args, task: tasks.Task, device: str) -> tuple[Policy, RunConfig]:
    """Return the policy with random weights, and what decides the rest."""
    import torch

    from xfer.models.policy import Policy, PolicyConfig, make_spec
    from xfer.training.distributed import size
    from xfer.training.imitation import SCORE_KINDS
    from xfer.training.ppo import initialize
    from xfer.training.run_folder import RunConfig

    torch.manual_seed(args.seed)
    chosen = settings(args)
    memory = chosen["memory_size"] if chosen["memory"] == "gru" else 0
    policy_config = PolicyConfig(**_fields(PolicyConfig, {**chosen, "image": task.image, "memory": memory}))
    reinforce = algorithm_of(args) == "ppo"
    score_kind = "logits" if reinforce else SCORE_KINDS[chosen["loss"]]
    policy = Policy(policy_config, make_spec(task, task.image, score_kind, memory))
    policy.split(chosen["train_from"])  # a wrong name should fail before anything is written
    if not reinforce:
        how = imitation_config(args, device)
        more: dict[str, Any] = {"demonstrations": args.demonstrations, "processes": size()}
        return policy, RunConfig(task.name, args.weights, policy_config, how, **more)
    initialize(policy.readout, 0.01)
    return policy, RunConfig(task.name, args.weights, policy_config, ppo=ppo_config(args, device), processes=size())


def imitation_config(args: Args, device: str) -> ImitationConfig:
    """Return the part of the arguments that says how to imitate."""
    from xfer.training.imitation import ImitationConfig

    chosen = settings(args)
    compiled = device == "cuda" if args.compile is None else args.compile
    return ImitationConfig(**_fields(ImitationConfig, {**chosen, "compile": compiled}))


def ppo_config(args: Args, device: str) -> PPOConfig:
    """Return the part of the arguments that says how to learn by PPO.

    Raises:
        UsageError: If they do not fit together.
    """
    from xfer.training.ppo import PPOConfig

    compiled = device == "cuda" if args.compile is None else args.compile
    mode = args.compile_mode if compiled else "off"
    config = PPOConfig(**_fields(PPOConfig, {**settings(args), "compile": mode}))
    config.check()
    return config


def _fields(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in dataclasses.fields(kind)}
