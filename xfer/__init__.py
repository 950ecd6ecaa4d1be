"""The training stage: adapt a pretrained vision network to a reinforcement-learning task.

    from xfer import ImitationConfig, train

    result = train("cartpole", weights="none", imitation=ImitationConfig(frames=200, steps=20))

Importing this package costs nothing: what it offers is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xfer.models.config import PolicyConfig
    from xfer.training.config import ImitationConfig, PPOConfig
    from xfer.training.record import record
    from xfer.training.train import train

__version__ = "0.3.0.dev0"
__all__ = ["ImitationConfig", "PPOConfig", "PolicyConfig", "record", "train"]

_WHERE = {
    "ImitationConfig": "xfer.training.config",
    "PPOConfig": "xfer.training.config",
    "PolicyConfig": "xfer.models.config",
    "record": "xfer.training.record",
    "train": "xfer.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
