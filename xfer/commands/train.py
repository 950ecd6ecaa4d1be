"""What `xfer train` does: parse, train, show."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from xfer import tasks
from xfer.commands import Common, read_arguments
from xfer.errors import UsageError
from xfer.models.config import PolicyConfig, task_defaults
from xfer.models.limits import flag
from xfer.tasks import Task
from xfer.training.config import (
    Algorithm,
    ImitationConfig,
    ImitationOptions,
    PPOConfig,
    PPOOptions,
    RunOptions,
    TrainingConfig,
    choose_algorithm,
)
from xfer.training.run_config import RunConfig, load_config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console

    from xfer.training.train import TrainResult


@dataclass(kw_only=True)
class Args(Common):
    """Fine-tune a pretrained network on a task, by imitation or by PPO.

    The same command on the same folder continues a run that was interrupted.

    A task may bring its own defaults: `xfer train TASK --help` shows them.

    Options come before a --config file, and that before the task's defaults.

    Example commands:
      xfer train cartpole --weights imagenet
      xfer train cartpole --weights none --output runs/scratch
      xfer train cartpole --weights runs/simple --train-from layer2
      xfer train cartpole --tap layer4 --head average --train-from head
        --optimizer sgd --learning-rate 0.001 --loss cross-entropy
      xfer train cartpole --demonstrations cartpole/expert-v0 --steps 2000
      xfer train driving --memory gru --memory-size 128
      xfer train cartpole --horizon 4 --execute 2
      xfer train cartpole --algorithm ppo --total-frames 200000
      xfer train navigation:empty --algorithm ppo --weights runs/simple
      xfer train my_robot:task --algorithm ppo --rollout-steps 64 --gamma 0.98
      xfer train --config runs/cartpole/config.json --seed 1 --output runs/1
    """

    task: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK", help_behavior_hint="(required without --config)")
    ] = ""
    """Task to learn: cartpole, navigation:fourrooms, gym:Acrobot-v1 ..., or module:function of your own."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Configuration to begin from: the config.json of a run."""
    run: RunOptions = field(default_factory=RunOptions)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    imitation: Annotated[ImitationOptions, tyro.conf.FlagConversionOff] = field(default_factory=ImitationOptions)
    ppo: Annotated[PPOOptions, tyro.conf.FlagConversionOff] = field(default_factory=PPOOptions)
    found: Annotated[Any, tyro.conf.Suppress] = None  # a Task, whose annotations tyro need not resolve
    """The task, once it is loaded."""


def parse(words: Sequence[str]) -> Args:
    """Return the arguments of a command line: what is given, else the file's, else the task's, else the default.

    So the command line is read twice: for the task, and then with the defaults that it brings.

    Raises:
        UsageError: If no task is named, or an option is not one of the algorithm in use.
    """
    asked = [word for word in words if word not in ("-h", "--help")]
    first: Args = read_arguments(Args, "train", asked, Args())
    if not first.task and first.config is None:
        if len(asked) < len(words):
            read_arguments(Args, "train", ["--help"], Args())
        raise UsageError("Which task? xfer train TASK, or xfer train --config FILE. `xfer train --help` says more.")
    if first.config is not None and not first.config.is_file():
        raise UsageError(
            f"--config {first.config}: there is no such file. A run's folder holds one, as RUN/config.json."
        )
    file = None if first.config is None else load_config(first.config)
    task = tasks.load(first.task or file.task) if file is not None else tasks.load(first.task)
    default, algorithm = defaults(task, first, file)
    args: Args = read_arguments(Args, "train", words, default, _brought(task, algorithm))
    args.found = task
    _refuse(args, default, algorithm)
    return args


def defaults(task: Task, first: Args, file: RunConfig | None) -> tuple[Args, Algorithm]:
    """Return what holds where the user says nothing, and the algorithm in use."""
    algorithm = choose_algorithm(first.run, task)
    if file is not None and first.run.algorithm == "auto":
        algorithm = file.algorithm
    run, policy = RunOptions(), PolicyConfig.for_task(task, algorithm)
    how: dict[str, ImitationConfig | PPOConfig | None] = {"imitation": None, "ppo": None}
    if file is not None:
        demonstrations = None if algorithm == "ppo" else file.demonstrations
        run = replace(
            run,
            algorithm=file.algorithm,
            weights=file.weights,
            demonstrations=demonstrations,
            max_episode_steps=file.max_episode_steps,
        )
        policy = file.policy if file.task == task.name else replace(file.policy, image=task.image)
        how = {"imitation": file.imitation, "ppo": file.ppo}
    demonstrated = bool(first.run.demonstrations or run.demonstrations)
    imitation = how["imitation"] or ImitationConfig.for_task(task, demonstrated)
    ppo = how["ppo"] or PPOConfig.for_task(task)
    args = Args(
        task=task.name,
        run=run,
        policy=policy,
        training=_part(ppo if algorithm == "ppo" else imitation, TrainingConfig),
        imitation=_part(imitation, ImitationOptions),
        ppo=_part(ppo, PPOOptions),
    )
    return args, algorithm


def main(args: Args) -> dict[str, Any]:
    """Train, and return the object that ``--json`` prints."""
    from rich.console import Console

    from xfer.training.train import train

    task = args.found or tasks.load(args.task)
    options = {**vars(args.run), "algorithm": choose_algorithm(args.run, task)}
    how: dict[str, Any] = {"imitation": ImitationConfig(**vars(args.training), **vars(args.imitation))}
    if options["algorithm"] == "ppo":
        how = {"ppo": PPOConfig(**vars(args.training), **vars(args.ppo))}
    console = Console()
    result = train(task, policy=args.policy, console=console, **how, **options)
    show(result, console)
    console.print(f"Next: xfer export {result.path}", markup=False)
    return result.summary()


def show(result: TrainResult, console: Console) -> None:
    """Print how a finished run did."""
    console.print(
        f"[bold]{result.path}[/]: mean return {result.mean:.1f} over {len(result.returns)} fresh episodes,"
        f" {result.frames} frames, {result.seconds / 60:.1f} min"
    )


def _brought(task: Task, algorithm: Algorithm) -> str:
    """Say which defaults a task brings, for ``--help``."""
    values = {flag(name): value for name, value in task_defaults(task, algorithm).items()}
    if not values:
        return ""
    words = (f"{name} {' '.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in values.items())
    lines = textwrap.fill(", ".join(words), 80, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return f"Defaults that {task.name} brings:\n{lines}"  # tyro joins lines that are not indented


def _refuse(args: Args, default: Args, algorithm: Algorithm) -> None:
    """Refuse options that mean nothing with what was chosen.

    Raises:
        UsageError: If there is one.
    """
    given: Any = args.imitation if algorithm == "ppo" else args.ppo
    unused: Any = default.imitation if algorithm == "ppo" else default.ppo
    for name, value in vars(given).items():
        if value != getattr(unused, name):
            raise UsageError(f"{flag(name)} is no option of --algorithm {algorithm}.")
    if args.policy.memory == "none":
        sizes = args.policy.memory_size != default.policy.memory_size
        if sizes or args.imitation.unroll != default.imitation.unroll:
            raise UsageError(f"{'--memory-size' if sizes else '--unroll'} is an option of --memory gru.")


P = TypeVar("P", bound="DataclassInstance")


def _part(config: TrainingConfig, kind: type[P]) -> P:
    """Return the fields of a configuration that a class it inherits from has."""
    return kind(**{part.name: getattr(config, part.name) for part in fields(kind)})
