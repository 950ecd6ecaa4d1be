"""The one way to an environment: whatever runs episodes makes it here, and steps it through this wrapper.

What goes wrong in an environment is then said in one line that names the task, the seed and the step, and is not blamed
on the policy that happens to act. Training, evaluation, recording, export, ``xfer verify`` and ``xfer run`` all do.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from xfer.errors import RewardError, TaskError, XferError
from xfer.wrappers import Rendered, as_array, attribute, called, described, observation_space, observed

if TYPE_CHECKING:
    from xfer.tasks import Task

MOST_STEPS = 100_000
"""An episode that has not ended after so many steps is an error, unless ``Task.max_episode_steps`` truncates it."""


class Environment(gymnasium.Wrapper[dict[str, np.ndarray], Any, Any, Any]):
    """The environment that ``task.make`` builds, checked at every step.

    It gives the observations that the task names and no others, in their dtypes; rewards are floats, ends are bools,
    ``info`` is left out. An episode is truncated after ``task.max_episode_steps``, if that is set.

    Args:
        task: The task.

    Raises:
        TaskError: By every method: if the environment raises anything, never ends, or gives what it must not.
        RewardError: If a reward is NaN or infinite.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._seed: int | None = None
        self._since, self._step = 0, -1  # episodes since that seed; the step that is taken
        try:
            env: Any = called("make", task.make)
        except TaskError as error:
            if isinstance(error.__cause__, XferError):  # as where its simulator is not installed
                raise error.__cause__  # noqa: B904 - it is the cause
            raise self._fault(error) from (error.__cause__ or error)
        if not isinstance(env, gymnasium.Env):
            raise self._fault(f"make() gives {described(env)}, not a gymnasium.Env.")
        super().__init__(env)
        self._undrawn: gymnasium.Env[Any, Any] = env.env if isinstance(env, Rendered) else env
        space: Any = observation_space(task.observations)
        self.observation_space = space
        actions, kind, count = self._actions(env), task.action.kind, len(task.action.elements)
        fits = isinstance(actions, gymnasium.Space)
        if isinstance(actions, gymnasium.spaces.Discrete):
            fits = kind == "discrete" and actions.n >= count
        if not fits:
            raise self._fault(f"its action_space is {actions}; the task's action is {kind}, of {count} elements.")
        own = getattr(env.unwrapped.spec, "max_episode_steps", None)  # a TimeLimit of Gymnasium's will end it
        self._most = max(MOST_STEPS, own or 0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; without a seed, one that follows on those before."""
        self._seed, self._since = (self._seed, self._since + 1) if seed is None else (seed, 0)
        self._step = -1
        given = self._call("reset", self.env.reset, seed=seed, **({} if options is None else {"options": options}))
        self._given, _ = self._values("reset", given, ("observations", "info"))
        return self._observed(), {}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take an action."""
        ends = self.advance(action)
        return self.look(), *ends, {}

    def advance(self, action: Any) -> tuple[float, bool, bool]:
        """Take an action, and draw nothing where the outermost wrapper is known to do nothing else.

        Returns:
            The reward, and whether the episode terminated or was truncated.
        """
        self._step += 1
        given = self._call("step", self._undrawn.step, action)
        names = ("observations", "reward", "terminated", "truncated", "info")
        self._given, reward, terminated, truncated, _ = self._values("step", given, names)
        result = self._reward(reward), self._flag("terminated", terminated), self._flag("truncated", truncated)
        return result if any(result[1:]) else (*result[:2], self._is_long())

    def look(self) -> dict[str, np.ndarray]:
        """Return the observations of the present state, after ``advance``."""
        if isinstance(self.env, Rendered):
            self._given = self._call("observation", self.env.observation, None)
        return self._observed()

    def advice(self) -> np.ndarray:
        """Return what the task's expert would do in the present state, float32 [A]; the task must have one."""
        assert self._task.expert is not None
        said = self._call("expert", self._task.expert, self.env)
        array, shape = as_array(said), (len(self._task.action.elements),)
        if array is None or array.dtype.kind not in "biuf" or array.shape != shape or np.isnan(array).any():
            raise self._fault(f"expert() gives {described(said)}; it must be {list(shape)} numbers, and no NaN.")
        return array.astype(np.float32, copy=False)

    def close(self) -> None:
        """Close the environment; if something else has gone wrong, that is what is said."""
        failing = sys.exc_info()[0] is not None
        try:
            self._call("close", self.env.close)
        except TaskError:
            if not failing:
                raise

    def _actions(self, env: gymnasium.Env[Any, Any]) -> Any:
        try:
            return attribute(env, "action_space")
        except TaskError as error:
            raise self._fault(error) from (error.__cause__ or error)

    def _call(self, name: str, function: Any, *args: Any, **options: Any) -> Any:
        try:
            return called(name, function, *args, **options)
        except TaskError as error:
            raise self._fault(error) from (error.__cause__ or error)

    def _observed(self) -> dict[str, np.ndarray]:
        try:
            return observed(self._given, self._task.observations)
        except TaskError as error:
            raise self._fault(error) from error

    def _values(self, method: str, given: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
        if isinstance(given, (tuple, list)) and len(given) == len(names):
            return tuple(given)
        raise self._fault(f"{method}() gives {described(given)}; it must give {', '.join(names)}.")

    def _reward(self, given: Any) -> float:
        array = as_array(given)
        if array is None or array.size != 1 or array.dtype.kind not in "biuf":
            raise self._fault(f"the reward is {described(given)}; step() must give one number.")
        reward = float(array.item())
        if not math.isfinite(reward):
            raise self._fault(f"the reward is {reward}; step() must give a finite number.", RewardError)
        return reward

    def _flag(self, name: str, given: Any) -> bool:
        if isinstance(given, (bool, np.bool_)):
            return bool(given)
        array = as_array(given)
        if array is None or array.size != 1 or array.dtype.kind != "b":
            raise self._fault(f"{name} is {described(given)}; step() must give True or False.")
        return bool(array.item())

    def _is_long(self) -> bool:
        """Whether an episode that goes on is truncated here."""
        done, most = self._step + 1, self._task.max_episode_steps
        if most is None and done >= self._most:
            raise self._fault(
                f"the episode has not ended after {done:,} steps. End it in the environment, or truncate it here:"
                " --max-episode-steps N."
            )
        return most is not None and done >= most

    def _fault(self, what: object, kind: type[TaskError] = TaskError) -> TaskError:
        """Return an error that says where it was."""
        where = [f"Task {self._task.name}"]
        if self._seed is not None:
            where.append(f"seed {self._seed}" if not self._since else f"{self._since} episodes after seed {self._seed}")
        if self._step >= 0:
            where.append(f"step {self._step}")
        return kind(f"{', '.join(where)}: {what}")
