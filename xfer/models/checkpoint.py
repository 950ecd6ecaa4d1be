"""A policy on disk: safetensors weights and JSON, never pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save

from xfer.errors import UsageError, WeightsError
from xfer.files import to_json, write_atomically
from xfer.models.config import PolicyConfig, upgrade_policy
from xfer.models.policy import Policy
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"


@dataclass(frozen=True)
class PolicyDescription:
    """What ``policy.json`` holds: all that is needed to build the module again."""

    config: PolicyConfig
    spec: PolicySpec


def save_policy(policy: Policy, folder: Path) -> None:
    """Write ``policy.safetensors`` and ``policy.json`` into ``folder``; each is whole or not there."""
    write_atomically(folder / DESCRIPTION, to_json(PolicyDescription(policy.config, policy.spec)))
    write_atomically(folder / WEIGHTS, weights_bytes(policy))


def weights_bytes(policy: Policy) -> bytes:
    """Return the weights as safetensors; equal weights give equal bytes."""
    state: dict[str, Tensor] = {k: v.contiguous() for k, v in policy.state_dict().items()}
    return save(state)


def load_description(folder: Path) -> PolicyDescription:
    """Read how the policy that ``save_policy`` wrote is built.

    Raises:
        WeightsError: If the file is missing or damaged.
    """
    try:
        data = json.loads((folder / DESCRIPTION).read_bytes())
        data["config"] = upgrade_policy(data.get("config"))
        return msgspec.convert(data, PolicyDescription)
    except (OSError, ValueError, AttributeError, TypeError, UsageError) as error:
        raise WeightsError(f"{folder / DESCRIPTION} is missing or damaged: {error}") from error


def load_policy(folder: Path) -> Policy:
    """Build the policy that ``save_policy`` wrote, in eval mode.

    Raises:
        WeightsError: If a file is missing, damaged, or the weights are of another architecture.
    """
    description = load_description(folder)
    policy = Policy(description.config, description.spec)
    load_weights(policy, folder / WEIGHTS)
    return policy.eval()


def load_weights(policy: Policy, path: Path) -> None:
    """Load a whole policy's weights into ``policy``.

    Raises:
        WeightsError: If the file is missing, damaged, or of another architecture.
    """
    try:
        policy.load_state_dict(load(path.read_bytes()))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is missing or damaged: {error}") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{path} is a checkpoint of another architecture: {reason}") from error
