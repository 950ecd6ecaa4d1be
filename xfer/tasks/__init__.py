"""Tasks: one file a family. The folder's listing is the list of families.

A file defines ``TASK``, which is called ``family``, or ``WORLDS`` and ``task(world)`` where a family has several, which
are called ``family:world``, or all of these. ``WORLDS = ()`` takes any world. ``REQUIRES`` names the modules that its
simulator needs; importing the file does not need them. A file whose name begins with an underscore is a helper. A
user's own task is ``module:function``, a function without arguments that returns a ``Task``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from xfer import user_code
from xfer.errors import UnavailableError, UsageError, check_choice
from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

ExpertKind = Literal["scores", "probabilities", "action"]

TRUSTED = "XFER_TASK"
"""Environment variable with the ``module:function`` that files may name, too; processes that are started inherit it."""

LIMIT = "XFER_MAX_EPISODE_STEPS"
"""Environment variable with the steps after which episodes are truncated; processes that are started inherit it."""


@dataclass(frozen=True)
class Task:
    """A control problem that is seen through an environment's observations.

    Attributes:
        name: Name on the command line.
        control_hz: Rate at which the environment takes actions, in Hz.
        observations: What ``make()``'s environment gives: a dict of arrays with these names.
        action: What it takes.
        reward: Mean return of a random policy and the best one known, or None if unknown.
        image: How a camera's frame becomes its network's input, by default.
        make: Builds the environment.
        expert: What to do in the environment's present state, float32 [A], or None if there is no expert.
        expert_kind: What ``expert`` returns: ``scores`` of discrete actions, of which the largest is the expert's
            choice; ``probabilities`` of discrete actions, where equally good ones share 1; or a continuous ``action``
            in the environment's units.
        defaults: Values of ``xfer train``'s options that suit this task, used where the user gives none.
        success: The return from which on an episode counts as a success, or None where there is no such thing.
        circles: Whether a policy without memory that sees the same twice in an episode goes round in circles until its
            time is up, for no reward: nothing is left to chance, observations show the whole state, and only reaching
            the goal is rewarded. Such an episode need not be run to its end.
        max_episode_steps: Steps after which an episode is truncated, or None: then it must end by itself.
        images: What holds in place of ``image`` for some cameras, by the name of the observation.
    """

    name: str
    control_hz: float
    observations: tuple[TensorSpec, ...]
    action: ActionSpec
    reward: RewardScale | None
    image: ImageConfig
    make: Callable[[], gymnasium.Env]
    expert: Callable[[gymnasium.Env], np.ndarray] | None = None
    expert_kind: ExpertKind = "scores"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    success: float | None = None
    circles: bool = False
    max_episode_steps: int | None = None
    images: Mapping[str, ImageConfig] = field(default_factory=dict)


def families() -> list[str]:
    """Return the names of all families."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def names() -> list[str]:
    """Return the names of all tasks; ``family:...`` stands for a family that takes any world."""
    found = []
    for family in families():
        module = _family(family)
        found += [family] if hasattr(module, "TASK") else []
        if hasattr(module, "WORLDS"):
            found += [f"{family}:{world}" for world in module.WORLDS or ("...",)]
    return found


def load(name: str) -> Task:
    """Return the task that a user calls ``name``: ``family``, ``family:world``, or their own ``module:function``.

    Its episodes are truncated where ``truncated`` or the environment variable says so.

    Raises:
        UsageError: If there is none, with the closest name.
        UnavailableError: If its simulator is not installed.
        TaskError: If its environment gives what a policy cannot see or be paced by.
    """
    task, steps = _load(name), max_episode_steps()
    return task if steps is None else replace(task, max_episode_steps=steps)


def _load(name: str) -> Task:
    family, _, world = name.partition(":")
    if family not in families():
        return _users(name) if world else _unknown(name)
    module = _family(family)
    for needed in module.REQUIRES:
        if not importlib.util.find_spec(needed):
            raise UnavailableError(f"Task {name} needs {needed}: pip install 'xfer-policy[{family}]'")
    worlds: tuple[str, ...] | None = getattr(module, "WORLDS", None)
    known = worlds is not None and (not worlds or world in worlds) if world else hasattr(module, "TASK")
    if not known:
        _unknown(name)
    task: Task = module.task(world) if world else module.TASK
    return task


def load_recorded(name: str) -> Task:
    """Return the task that a bundle's or a run's file names.

    Its ``module:function`` is code that whoever wrote the file has chosen, and so is the module in Gymnasium's own
    ``module:ENV_ID``: they are loaded only where the user said the same name, by ``trust`` or the environment variable.

    Raises:
        UsageError: If there is none.
        UnavailableError: If it is not trusted, or its simulator is not installed.
        TaskError: If its environment gives what a policy cannot see or be paced by.
    """
    if not name:
        raise UsageError("The policy's spec names no task, so there is no environment to act in.")
    family, _, function = name.partition(":")
    own = ":" in function if family in families() else bool(function)
    if own and name != os.environ.get(TRUSTED):
        raise UnavailableError(f"task {name} is a user's own code; if you trust it, say so: --task {name}")
    return load(name)


def trust(name: str | None) -> None:
    """Let files name this ``module:function``, here and in processes that are started from here."""
    if name is not None:
        os.environ[TRUSTED] = name


@contextmanager
def truncated(steps: int | None) -> Iterator[None]:
    """Truncate the episodes of tasks that are loaded in this context, here and in processes that are started from here.

    Args:
        steps: After how many steps; None leaves that as it is.

    Raises:
        UsageError: If it is less than 1.
    """
    before = os.environ.get(LIMIT)
    if steps is not None:
        if steps < 1:
            raise UsageError(f"--max-episode-steps must be at least 1, not {steps}.")
        os.environ[LIMIT] = str(steps)
    try:
        yield
    finally:
        if steps is not None:
            os.environ.pop(LIMIT)
            os.environ.update({} if before is None else {LIMIT: before})


def max_episode_steps() -> int | None:
    """Return after how many steps the user has episodes truncated, or None.

    Raises:
        UsageError: If the environment variable holds something else.
    """
    value = os.environ.get(LIMIT, "")
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"{LIMIT}={value}: it must be a number of steps, 1 at least.")
    return int(value)


def _family(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def _unknown(name: str) -> NoReturn:
    check_choice("task", name, names())
    raise AssertionError(name)  # no name of a task gets here


def _users(name: str) -> Task:
    """Load ``module:function``, where the module may lie in the current folder."""
    try:
        task = user_code.call(name, "Task")
    except ModuleNotFoundError:
        _unknown(name)
    if not isinstance(task, Task):
        module, _, function = name.partition(":")
        raise UsageError(f"Task {name}: {function} of {module} is no function that returns an xfer.tasks.Task.")
    return replace(task, name=name)
