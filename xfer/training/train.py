"""``train``: load a pretrained network, adapt its head to a task, and train what needs training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from xfer import tasks
from xfer.errors import UsageError, check_choice
from xfer.models.config import TASK_IMAGE, PolicyConfig
from xfer.models.contract import make_spec, planning
from xfer.models.limits import flag
from xfer.models.policy import Policy
from xfer.models.pretrained import load_weights
from xfer.tasks import Task
from xfer.training import distributed, ppo, rounds
from xfer.training.config import SCORE_KINDS, ImitationConfig, PPOConfig, RunOptions, choose_algorithm
from xfer.training.demonstrations import open_dataset
from xfer.training.learners import check_memory
from xfer.training.run_config import RunConfig
from xfer.training.run_folder import RunFolder, RunResult


@dataclass(frozen=True)
class TrainResult(RunResult):
    """How a finished run did, and where it is.

    Attributes:
        path: Folder of the run; ``RunFolder(path)`` reads it, ``xfer export`` takes it.
    """

    path: Path

    def summary(self) -> dict[str, Any]:
        """Return the object that ``xfer train --json`` prints."""
        return {
            "run": str(self.path),
            "frames": self.frames,
            "seconds": round(self.seconds, 2),
            "frames_per_second": round(self.frames / self.seconds, 2),
            "eval_return_mean": self.mean,
            "eval_episodes": len(self.returns),
        }


def train(
    task: str | Task,
    *,
    policy: PolicyConfig | None = None,
    imitation: ImitationConfig | None = None,
    ppo: PPOConfig | None = None,
    console: Console | None = None,
    **options: Any,
) -> TrainResult:
    """Do what ``xfer train`` does: train a policy for a task, or continue a run that was interrupted.

    A configuration that is given is taken as it is; one that is not is ``for_task(task)``: the class's defaults with
    the task's over them.

    Args:
        task: Name of a task, or a task. ``xfer export`` and others load it again by its ``name``.
        policy: How the network is built. Without an ``image`` of its own it takes the task's.
        imitation: How to imitate the task's expert or demonstrations.
        ppo: How to learn by PPO.
        console: Where progress is shown: the terminal, if none is given. ``Console(quiet=True)`` shows none.
        **options: Any option of ``xfer train`` by name: fields of ``RunOptions`` (``output``, ``weights``, ``device``
            ...), and single values over the configurations (``frames=200``, ``tap="layer1"``).

    Returns:
        The last evaluation, and the run's folder.

    Raises:
        UsageError: If an option does not fit the task, the machine or another option.
        WeightsError: If the weights are missing, damaged or of another architecture.
        RunError: If the output folder holds something else, or a run with another configuration.
        TaskError: If the task's environment fails, or does not end.

    Example:
        result = train("cartpole", weights="none", output="runs/cartpole", frames=200, steps=20)
        print(result.mean, result.path)
    """
    if imitation is not None and ppo is not None:
        raise UsageError("Give a configuration for imitation or one for PPO, not both.")
    task = tasks.load(task) if isinstance(task, str) else task
    given = "ppo" if ppo is not None else "imitation" if imitation is not None else None
    run = RunOptions(**{"algorithm": given or "auto", **_take(options, RunOptions)})
    run.check()
    if run.max_episode_steps is not None:
        task = replace(task, max_episode_steps=run.max_episode_steps)
    algorithm = choose_algorithm(run, task)
    if given not in (None, algorithm):
        raise UsageError(f"The configuration is for {given}, but --algorithm is {algorithm}.")
    device = choose_device(run.device)
    policy = replace(policy or PolicyConfig.for_task(task, algorithm), **_take(options, PolicyConfig))
    how: ImitationConfig | PPOConfig
    if algorithm == "ppo":
        how = ppo or PPOConfig.for_task(task)
    else:
        how = imitation or ImitationConfig.for_task(task, run.demonstrations is not None)
    how = replace(how, **_take(options, type(how))).resolved(device)
    for name in options:  # that are left
        check_choice("option", name, _names(RunOptions, PolicyConfig, ImitationConfig, PPOConfig))
        raise UsageError(f"{flag(name)} is no option of --algorithm {algorithm}.")
    if policy.image == TASK_IMAGE:
        policy = replace(policy, image=task.image, images=policy.images or tuple(task.images.items()))
    if policy.memory == "none":
        policy = replace(policy, memory_size=PolicyConfig.memory_size)  # it means nothing: runs should not differ in it
    check(task, policy, how, run, device)
    return _train(task, policy, how, run, device, console or Console())


def _train(
    task: Task,
    policy_config: PolicyConfig,
    how: ImitationConfig | PPOConfig,
    run: RunOptions,
    device: str,
    console: Console,
) -> TrainResult:
    folder = RunFolder(run.output or Path("runs") / task.name.replace(":", "-"))
    with distributed.group(device):
        config = RunConfig(
            task.name,
            run.weights,
            policy_config,
            imitation=how if isinstance(how, ImitationConfig) else None,
            ppo=how if isinstance(how, PPOConfig) else None,
            demonstrations=run.demonstrations,
            processes=distributed.size(),
            max_episode_steps=task.max_episode_steps,
        )
        policy = build_policy(task, policy_config, how)
        folder.check(config)  # before a download that would be in vain
        demonstrated = 0
        if run.demonstrations is not None:
            demonstrated = open_dataset(run.demonstrations, task).total_steps
        loaded = load_weights(policy, run.weights)
        if loaded.taken:
            console.print(f"weights: {loaded}", markup=False)
        policy.to(device).eval()
        gib = check_memory(config, policy, run.memory_gib, demonstrated)
        console.print(f"features that are kept: {1024 * gib:.3g} MiB at most")
        if distributed.rank() == 0:
            folder.start(config)
            if changed := folder.changed_libraries():
                console.print(f"other libraries than when this run began: {changed}", markup=False)
        distributed.wait()  # until it is there
        with folder.held() if distributed.rank() == 0 else nullcontext():
            rounds.run(
                folder, config, policy, task, device, run.eval_episodes, console, run.vectorize, run.until_success
            )
    result = folder.result()
    assert result is not None
    return TrainResult(result.frames, result.seconds, result.returns, folder.path)


def _names(*kinds: type[Any]) -> list[str]:
    return [option.name for kind in kinds for option in fields(kind)]


def _take(options: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Remove from ``options`` what a configuration class has, and return it."""
    return {name: options.pop(name) for name in _names(kind) if name in options}


def build_policy(task: Task, config: PolicyConfig, how: ImitationConfig | PPOConfig) -> Policy:
    """Return a policy with random weights, as training with ``how`` begins with.

    Raises:
        UsageError: If the configuration names a stage that the network does not have.
    """
    torch.manual_seed(how.seed)
    score_kind = SCORE_KINDS[how.loss] if isinstance(how, ImitationConfig) else "logits"
    spec = make_spec(task, config.image, score_kind, config.memory_units, dict(config.images))
    policy = Policy(config, planning(spec, config))
    policy.split(how.train_from)  # a wrong name should fail before anything is written
    if isinstance(how, PPOConfig):
        ppo.initialize(policy.readout, 0.01)
    return policy


def choose_device(name: str) -> str:
    """Return ``cpu`` or ``cuda``.

    Raises:
        UsageError: If CUDA is asked for and there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no CUDA GPU here. Use --device cpu.")
    return name


def check(
    task: Task, policy: PolicyConfig, how: ImitationConfig | PPOConfig, run: RunOptions, device: str = "cpu"
) -> None:
    """Refuse configurations that do not fit the task, the device or each other.

    Raises:
        UsageError: With the option to change.
    """
    policy.check()
    how.check()
    if policy.trunks == "each" and sum(observation.is_image for observation in task.observations) == 1:
        raise UsageError(f"--trunks each is for a task with several cameras, and {task.name} has one.")
    if how.amp == "fp16" and device == "cpu":
        raise UsageError("--amp fp16 needs CUDA (its gradients are scaled). Use --amp bf16 or off.")
    if run.until_success is not None and task.success is None:
        raise UsageError(f"Task {task.name} does not say what success is, so --until-success has no meaning.")
    if isinstance(how, PPOConfig):
        if run.demonstrations is not None:
            raise UsageError("--demonstrations is no option of --algorithm ppo.")
        if policy.memory_units:
            raise UsageError("--algorithm ppo does not train --memory gru. Use --algorithm imitation, or no memory.")
        if policy.horizon > 1:
            raise UsageError(
                f"--algorithm ppo does not train --horizon {policy.horizon}. Use --algorithm imitation, or --horizon 1."
            )
        return
    if task.expert is None and run.demonstrations is None:
        raise UsageError(f"Task {task.name} has no expert to imitate. Use --algorithm ppo, or --demonstrations.")
    if policy.memory_units and how.unroll > how.batch_size:
        raise UsageError(f"--unroll {how.unroll} needs --batch-size {how.unroll} at least.")
    if run.demonstrations is not None and how.rounds > 1:
        if task.expert is None:
            raise UsageError(f"Task {task.name} has no expert to go on with after the demonstrations. Use --rounds 1.")
        if task.expert_kind == "scores" and how.loss == "mse":
            raise UsageError("--loss mse cannot mix recorded actions with an expert's scores. Use cross-entropy.")
