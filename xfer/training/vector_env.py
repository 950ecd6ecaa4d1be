"""Several environments of a task, stepped as one; in processes of their own where that pays.

An episode that ends begins anew in the same step (``AutoresetMode.SAME_STEP``): every step is then a real transition,
so none has to be masked, and the arrays of a rollout keep their shape. What the ended episode showed last comes in
``infos["final_obs"]``; a truncated one is bootstrapped from it. (With Gymnasium's default, ``NEXT_STEP``, the step
after an end ignores its action and has reward 0.)
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from xfer import user_code
from xfer.errors import TaskError
from xfer.tasks import Task
from xfer.tasks._environment import Environment

Vectorize = Literal["auto", "sync", "async"]

PRELOADED = ["gymnasium"]
"""What the process that environments' processes are forked from imports, once for all of them."""


class MadeAnew(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Build the environment anew when it is given a seed, so that nothing of earlier episodes remains.

    ``reset(seed)`` alone does not promise that: a physics engine may keep the order of its contacts, for one. A run
    that was killed goes on in fresh environments, and must see what it would have seen in the old ones.

    Args:
        make: Builds the environment.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
        super().__init__(make())
        self._make, self._used = make, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, in a new environment if there is a seed."""
        if seed is not None and self._used:
            self.env.close()
            self.env = self._make()
        self._used = True
        with _traceback_kept():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action."""
        with _traceback_kept():
            return self.env.step(action)


@contextmanager
def _traceback_kept() -> Iterator[None]:
    """Write an error's traceback into its notes where it goes to another process, which could not show it otherwise."""
    try:
        yield
    except TaskError as error:
        if multiprocessing.parent_process() is not None:
            error.add_note(traceback.format_exc())
        raise


class Maker:
    """Builds one environment, in this process or in a worker's.

    Args:
        make: Builds the environment itself.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
        self.make = make

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Return the environment."""
        if multiprocessing.parent_process() is not None:
            user_code.started()
            # Ctrl-C reaches the workers too. They end when the process that trains does, without a word of their own.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return MadeAnew(self.make)


@contextmanager
def vector_env(task: Task, environments: int, kind: Vectorize = "auto") -> Iterator[VectorEnv[Any, Any, Any]]:
    """Yield ``environments`` environments of a task as one.

    Args:
        task: The task.
        environments: How many.
        kind: ``async`` has a process each, with observations in shared memory; ``sync`` steps one after the other here.
            Both give the same numbers. ``auto``: processes, where there are several environments and cores.

    Raises:
        TaskError: If an environment fails, or its process dies.
    """
    # Only what a process needs of it: an expert may hold what cannot be sent there.
    own = replace(task, expert=None, defaults={})
    makers = [Maker(partial(Environment, own)) for _ in range(environments)]
    if kind == "auto":
        kind = "async" if environments > 1 and (os.cpu_count() or 1) > 1 else "sync"
    if kind == "sync":
        envs: VectorEnv[Any, Any, Any] = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    else:
        # Never a fork of this process: its threads (PyTorch's) would not come along, but their locks would.
        methods = multiprocessing.get_all_start_methods()
        context = "forkserver" if "forkserver" in methods else "spawn"
        multiprocessing.get_context(context).set_forkserver_preload(PRELOADED)
        with user_code.starting_processes():
            envs = AsyncVectorEnv(
                makers, shared_memory=True, copy=False, context=context, autoreset_mode=AutoresetMode.SAME_STEP
            )
    try:
        with warnings.catch_warnings():
            # Gymnasium prints a process's traceback, and raises its error as well.
            warnings.filterwarnings("ignore", r".*ERROR: ", module=r"gymnasium\..*")
            yield envs
    except BaseException as error:
        _end(envs)
        if isinstance(error, TaskError) and error.args and isinstance(error.args[0], TaskError):
            raise error.args[0] from None  # Gymnasium makes an error of the error
        if isinstance(error, (EOFError, ConnectionError)) and isinstance(envs, AsyncVectorEnv):
            raise TaskError(
                f"Task {task.name}: a process that runs an environment has died. --vectorize sync runs it in this one."
            ) from error
        raise
    else:
        envs.close()


def _end(envs: VectorEnv[Any, Any, Any]) -> None:
    """End the environments' processes at once, whatever they are doing.

    An interrupt may have cut a message from a process in two, and a regular close would wait for the rest. By SIGKILL,
    because SDL, which draws for environments, turns SIGTERM into an event, and events are not read here.
    """
    if not isinstance(envs, AsyncVectorEnv):
        envs.close()
        return
    for process in envs.processes:
        process.kill()
    for process in envs.processes:
        process.join()
    envs.closed = True
