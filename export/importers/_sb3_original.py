"""The policy as Stable-Baselines3 itself acts with it: which are taken, and what the module is compared with.

A module is made of a policy's networks, past the methods in which SB3 calls them. So a class is taken only if these are
SB3's own: whoever writes another ``_predict`` or ``get_distribution`` has a policy that acts in another way.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.importers._sb3_module import INSTEAD, SB3Module
from export.libraries.causes import reason
from xfer.errors import UsageError, WeightsError
from xfer.runner import Arrays, Step
from xfer.tasks.env import ONLY

ACTING = (
    *("predict", "_predict", "forward", "__call__", "__getattr__", "__getattribute__", "set_training_mode"),
    *("obs_to_tensor", "extract_features", "get_distribution", "_get_action_dist_from_latent"),
    *("get_action_dist_params", "squash_output", "unscale_action"),
    *("proba_distribution", "mode", "get_actions", "actions_from_params"),  # of distributions
)
"""What lies between an observation and an action in SB3's classes, but for the networks."""
OTHERS = {
    "sb3_contrib.common.recurrent": "RecurrentPPO, which keeps the state of an LSTM from step to step",
    "sb3_contrib.common.maskable": "MaskablePPO, which is told at every step what is allowed",
    "sb3_contrib.qrdqn": "QR-DQN",
    "sb3_contrib.tqc": "TQC",
    "sb3_contrib.ars": "ARS",
    "sb3_contrib.crossq": "CrossQ",
    "sb3_contrib": "sb3-contrib",
    "stable_baselines3.td3": "TD3 or DDPG",
}
"""Algorithms that are not taken, by the modules of their policies."""
SAMPLES, LARGEST = 64, 1e4
"""How many samples of the observation space the module is compared on, and how large they are at most."""


def saved_class(path: Path) -> tuple[str, str]:
    """Return module and name of a saved policy's class, without running anything of the file.

    Raises:
        WeightsError: If the file is none that a model's ``save`` wrote.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            saved = json.loads(archive.read("data"))["policy_class"]
        names = re.findall(r"<function ([\w.]+)\.\w+ at ", " ".join(str(value) for value in saved.values()))
        return str(saved.get("__module__", "")), names[0] if names else "policy"
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: Stable-Baselines3 cannot load it: it is no file that model.save wrote ({reason(error)})."
        ) from error


def refuse_others(path: Path, classes: Iterable[tuple[str, str]]) -> None:
    """Refuse a policy of an algorithm that is not taken.

    Args:
        path: The file.
        classes: Module and name of the policy's class, and of those it derives from.

    Raises:
        UsageError: With the algorithm's name.
    """
    for module, name in classes:
        for prefix, algorithm in OTHERS.items():
            if f"{module}.".startswith(f"{prefix}."):
                raise UsageError(
                    f"{path} is of {algorithm} (its policy is a {name}). PPO, A2C, DQN and SAC are taken. {INSTEAD}"
                )


def refuse_own_ways(path: Path, policy: Any) -> None:
    """Refuse a policy that acts by methods of its author's.

    Raises:
        UsageError: With class and method.
    """
    networks = [policy, getattr(policy, "q_net", None), getattr(policy, "actor", None)]
    for part in (*networks, *(getattr(network, "action_dist", None) for network in networks)):
        for name in ACTING:
            owner = next((cls for cls in type(part).__mro__ if name in vars(cls)), object)
            own = owner.__module__.partition(".")[0] not in ("stable_baselines3", "torch", "builtins")
            if own or name in getattr(part, "__dict__", {}):
                raise UsageError(
                    f"{path} acts in a way of its own: {(owner if own else type(part)).__name__}.{name} is not"
                    f" Stable-Baselines3's, and would be lost. {INSTEAD}"
                )


class Original:
    """SB3's policy as a session: its own ``predict``, from what the wrappers around an environment give it.

    Args:
        module: The module that was made of it.
        model: SB3's model.
        path: The file that it was read from.
    """

    def __init__(self, module: SB3Module, model: Any, path: Path) -> None:
        self._module, self._model, self._path = module, model, path

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Act once; see ``Session``."""
        inputs = [torch.from_numpy(np.array(observations[name])) for name in self._module.names]
        with torch.no_grad():
            seen, after = self._module.sense(*inputs, *(torch.from_numpy(np.array(x)) for x in states.values()))
        action, scores = self.answer({name: x.numpy() for name, x in seen.items()})
        return Step(action, scores, dict(zip(states, (x.numpy() for x in after), strict=True)))

    def answer(self, seen: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return ``predict``'s action, and its scores from SB3's own forward pass.

        Args:
            seen: What ``predict`` takes, [B, ...] by name.

        Raises:
            UsageError: If it returns a state, too.
        """
        given = dict(seen) if self._module.is_dict else seen[ONLY]
        action, state = self._model.predict(given, deterministic=True)
        if state is not None:
            raise UsageError(f"{self._path}: its predict returns a state: it remembers. {INSTEAD}")
        with torch.no_grad():
            scores = self._scores(self._model.policy.obs_to_tensor(given)[0])
            if self._module.score_kind == "logits":  # which a distribution keeps but for a constant
                own = self._module.decide({name: torch.from_numpy(x).float() for name, x in seen.items()})[1]
                scores = scores + (own.amax(1, keepdim=True) - scores.amax(1, keepdim=True))
        return np.asarray(action), scores.numpy()

    def _scores(self, seen: Any) -> Any:
        policy = self._model.policy
        if self._module.score_kind == "values":
            return policy.q_net(seen)
        if hasattr(policy, "actor"):
            return policy.actor.get_action_dist_params(seen)[0]
        distribution = policy.get_distribution(seen).distribution
        return distribution.logits if self._module.score_kind == "logits" else distribution.mean

    def refuse_another(self) -> None:
        """Compare the module with it on samples of the observation space.

        Raises:
            UsageError: If they act differently, or SB3 fails.
        """
        try:
            seen = self._samples()
            wanted, again = self.answer(seen), self.answer(seen)
            with torch.no_grad():
                made = self._module.decide({name: torch.from_numpy(array).float() for name, array in seen.items()})
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # whatever somebody's networks raise
            raise UsageError(f"{self._path}: it fails on samples of what it observes ({reason(error)}).") from error
        if not all(map(_same, wanted, again)):
            return  # what draws noise or remembers is refused for that, when it has acted on what is recorded
        for what, one, other in zip(("actions", "scores"), wanted, made, strict=True):
            if not _same(one, other.numpy()):
                apart = float(np.nanmax(np.abs(other.numpy().astype(float) - one)))
                raise UsageError(
                    f"{self._path} acts in a way of its own: its {what} are up to {apart:.3g} from those of its"
                    f" networks. {INSTEAD}"
                )

    def _samples(self) -> dict[str, np.ndarray]:
        space = self._model.observation_space
        space.seed(0)
        samples = [space.sample() for _ in range(SAMPLES)]
        seen = {
            name: np.stack([one[name] if isinstance(one, dict) else one for one in samples])
            for name in self._module.names
        }
        return {name: np.clip(x, -LARGEST, LARGEST) if x.dtype.kind == "f" else x for name, x in seen.items()}


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
