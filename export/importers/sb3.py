"""A file that Stable-Baselines3 saved: PPO, A2C, DQN or SAC (https://stable-baselines3.readthedocs.io).

SB3's file does not say how many frames VecFrameStack stacked, and VecNormalize is a file of its own.
"""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from export.importers._deployable import Deployable
from export.importers._sb3_module import INSTEAD, SB3Module, Sense, Statistics, spaces_of
from export.importers._sb3_original import Original, refuse_others, refuse_own_ways, saved_class
from export.libraries.causes import reason
from xfer import tasks, user_code
from xfer.errors import UnavailableError, UsageError, WeightsError, XferError
from xfer.spec import PolicySpec, TensorSpec
from xfer.tasks._gymnasium import USUAL_HZ, action_spec
from xfer.tasks.env import ONLY

INSTALL = "pip install 'xfer-policy[sb3]'"
NOT_NEEDED: dict[str, Any] = {
    "buffer_size": 1,  # else SB3 reserves a whole replay buffer
    "replay_buffer_class": None,
    "replay_buffer_kwargs": {},
    "learning_rate": 0.0,
    "lr_schedule": None,
    "clip_range": 0.2,
    "exploration_schedule": None,
    "_last_obs": None,
    "_last_original_obs": None,
}
"""What only training needs. SB3 then does not unpickle it, which across versions of Python often fails."""
NEEDED = ("policy_class", "policy_kwargs", "observation_space", "action_space")
"""What a policy is built from. SB3 only warns where it cannot unpickle it."""


def load(
    path: Path,
    *,
    trust: bool,
    vecnormalize: Path | None = None,
    frame_stack: int = 1,
    task: str = "",
    control_hz: float | None = None,
) -> Deployable:
    """Return the policy in a file that SB3's ``save`` wrote.

    Args:
        path: The file.
        trust: Whether its author, and that of ``vecnormalize``, may run code here.
        vecnormalize: The file that ``VecNormalize.save`` wrote.
        frame_stack: How many frames VecFrameStack stacked.
        task: Where it acts, or empty. Without one, a camera's channels are taken to come last.
        control_hz: Rate at which it acts, in Hz; by default the task's.

    Raises:
        UsageError: If it is not trusted, not of PPO, A2C, DQN or SAC, acts in a way of its own, or does not fit the
            other arguments.
        WeightsError: If SB3 cannot load it.
        UnavailableError: If SB3 or the task's simulator is not installed.
    """
    for file in filter(None, (path, vecnormalize)):
        if not file.is_file():
            raise WeightsError(f"{file} is not there.")
        if not trust:
            raise UsageError(
                f"{file} holds pickles, and loading a pickle runs whatever code its author put there. If you trust"
                " whoever made it, say so: --trust"
            )
    if frame_stack < 1:
        raise UsageError(f"--frame-stack {frame_stack} must be at least 1.")
    model = _read(path)
    refuse_own_ways(path, model.policy)
    acts_in = tasks.load(task) if task else None
    action = action_spec(str(path), model.action_space)
    given = {o.name: o for o in acts_in.observations} if acts_in is not None else {}
    spaces = spaces_of(model.observation_space)
    if given and given.keys() != spaces.keys():
        raise UsageError(f"Task {task} gives {', '.join(given)}; {path} sees {', '.join(spaces)}.")
    statistics = _statistics(vecnormalize) if vecnormalize else {}
    if unknown := statistics.keys() - spaces.keys():
        raise UsageError(
            f"{vecnormalize} normalizes {', '.join(sorted(unknown))}; {path} sees {', '.join(spaces)}. Is this file of"
            " another model?"
        )
    observations, senses = [], {}
    for name, space in spaces.items():
        raw, transpose, first = _raw(name, space, frame_stack, given.get(name))
        observations.append(raw)
        senses[name] = Sense(raw, space.shape, transpose, first, statistics.get(name))
    try:
        module = SB3Module(senses, model.policy, action).eval()
    except AttributeError as error:
        raise UsageError(f"{path}: its network is not built as SB3's are ({error}). {INSTEAD}") from error
    original = Original(module, model, path)
    original.refuse_another()
    rate = control_hz or (acts_in.control_hz if acts_in is not None else USUAL_HZ)
    states = tuple(sense.state for sense in senses.values() if sense.state is not None)
    spec = PolicySpec(task, rate, tuple(observations), states, action, module.score_kind)
    return Deployable(module, spec, original)


def _read(path: Path) -> Any:
    """Load the model with the class that saved it."""
    try:
        from stable_baselines3 import DQN, PPO, SAC
        from stable_baselines3.common.policies import ActorCriticPolicy
        from stable_baselines3.common.save_util import load_from_zip_file
        from stable_baselines3.dqn.policies import DQNPolicy
        from stable_baselines3.sac.policies import SACPolicy
    except ImportError as error:
        raise UnavailableError(f"--from sb3 needs Stable-Baselines3: {INSTALL}") from error
    refuse_others(path, [saved_class(path)])
    user_code.look_here()  # where their own networks are
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data, _, _ = load_from_zip_file(path, device="cpu", custom_objects=NOT_NEEDED)
        assert data is not None
        if lost := [name for name in NEEDED if name not in data]:
            said = [str(one.message) for one in caught if f"object {lost[0]}." in str(one.message)]
            why = " ".join(said[0].rpartition("Exception: ")[2].split()) if said else "it is not there"
            raise WeightsError(f"{path}: its {lost[0]} cannot be read ({why}).")
        policy_class = data["policy_class"]
        refuse_others(path, [(cls.__module__, cls.__name__) for cls in policy_class.__mro__])
        for algorithm, policies in ((PPO, ActorCriticPolicy), (DQN, DQNPolicy), (SAC, SACPolicy)):
            if issubclass(policy_class, policies):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return algorithm.load(path, device="cpu", custom_objects=NOT_NEEDED)
    except XferError:
        raise
    except ModuleNotFoundError as error:
        refuse_others(path, [(error.name or "", f"class of {error.name}")])
        raise UnavailableError(f"{path} needs {error.name}, which is neither in this folder nor installed.") from error
    except (Exception, SystemExit) as error:  # whatever a pickle raises
        raise WeightsError(f"{path}: Stable-Baselines3 cannot load it: {reason(error)}") from error
    raise UsageError(f"{path} holds a {policy_class.__name__}, not a policy of PPO, A2C, DQN or SAC. {INSTEAD}")


def _raw(name: str, space: Any, stack: int, given: TensorSpec | None) -> tuple[TensorSpec, bool, bool]:
    """Return what the environment gives, whether it is transposed, and whether frames are stacked along the first axis.

    Raises:
        UsageError: If the network cannot see ``stack`` frames of what the task gives.
    """
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

    seen = tuple(space.shape)
    first = is_image_space(space) and is_image_space_channels_first(space)
    axis = 0 if first else -1
    one = list(seen)
    if not one or one[axis] % stack:
        raise UsageError(f"--frame-stack {stack}: the model sees {name} {list(seen)}, which is no stack of {stack}.")
    one[axis] //= stack
    layouts = [(tuple(one), False)]
    if first:
        layouts.insert(0, ((*one[1:], one[0]), True))
    if given is not None:
        for shape, transpose in layouts:
            if given.shape == shape:
                return given, transpose, first
        frames = math.prod(seen) / max(math.prod(given.shape), 1)
        hint = f" Was that --frame-stack {frames:.0f}?" if frames == int(frames) and frames > 1 else ""
        raise UsageError(f"The task gives {name} {list(given.shape)}; the model sees {list(seen)}.{hint}")
    shape, transpose = layouts[0]
    if space.dtype != np.uint8:
        return TensorSpec(name, "float32", shape), transpose, first
    color = {1: "gray", 3: "RGB"}.get(shape[-1], "") if transpose else ""
    return TensorSpec(name, "uint8", shape, color_order=color, value_range=(0, 255)), transpose, first


def _statistics(path: Path) -> dict[str, Statistics]:
    """Return what VecNormalize does to each observation, by name."""
    from stable_baselines3.common.vec_env import VecNormalize

    try:
        with path.open("rb") as file:
            found = pickle.load(file)
    except (Exception, SystemExit) as error:  # whatever a pickle raises
        raise WeightsError(f"{path} cannot be unpickled: {reason(error)}") from error
    if not isinstance(found, VecNormalize):
        raise UsageError(f"{path} holds a {type(found).__name__}, not a VecNormalize.")
    if not found.norm_obs:
        return {}
    running = found.obs_rms if isinstance(found.obs_rms, dict) else {ONLY: found.obs_rms}
    return {
        name: Statistics(
            np.asarray(one.mean, np.float32), np.asarray(np.sqrt(one.var + found.epsilon), np.float32), found.clip_obs
        )
        for name, one in running.items()
    }
