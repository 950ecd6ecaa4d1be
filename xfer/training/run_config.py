"""The configuration of a run as a file: ``config.json``. Importing this does not import torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from xfer.errors import RunError, UsageError
from xfer.models.config import PolicyConfig, upgrade_policy
from xfer.training.config import Algorithm, ImitationConfig, PPOConfig


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the trained weights.

    Attributes:
        task: Name of the task.
        weights: Where the trunk's weights came from.
        policy: How the policy is built.
        imitation: How it is trained, if by imitation.
        ppo: How it is trained, if by PPO.
        demonstrations: Minari dataset that imitation began with, if any.
        processes: How many trained together.
        max_episode_steps: Steps after which episodes are truncated, or None.
        libraries: Versions of libraries when the run began. Another version does not make another configuration.
    """

    task: str
    weights: str
    policy: PolicyConfig
    imitation: ImitationConfig | None = None
    ppo: PPOConfig | None = None
    demonstrations: str | None = None
    processes: int = 1
    max_episode_steps: int | None = None
    libraries: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def algorithm(self) -> Algorithm:
        """Which of the two it is."""
        return "imitation" if self.ppo is None else "ppo"


def load_config(path: Path) -> RunConfig:
    """Read what ``xfer train`` wrote, this version or 0.2.0.

    Raises:
        RunError: If the file is missing or damaged.
    """
    try:
        return msgspec.convert(_upgrade(json.loads(path.read_bytes())), RunConfig)
    except FileNotFoundError as error:
        raise RunError(f"{path.parent} is not a run: it has no {path.name}. Train one with `xfer train`.") from error
    except (OSError, ValueError, UsageError) as error:  # msgspec's and json's errors among them
        raise RunError(f"{path} cannot be read: {error}") from error


def _upgrade(data: Any) -> Any:
    """Return the configuration of version 0.2.0 in today's terms."""
    if not isinstance(data, dict):
        return data
    data = {**data, "policy": upgrade_policy(data.get("policy"))}
    ppo = data.get("ppo")
    if isinstance(ppo, dict) and isinstance(ppo.get("compile"), str):  # it was the mode, or "off"
        mode = ppo["compile"]
        data["ppo"] = {**ppo, "compile": mode != "off", "compile_mode": "default" if mode == "off" else mode}
    return data
