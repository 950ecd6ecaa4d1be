"""Importers: one file each. An importer turns somebody's policy into an ``ImportedPolicy``, which a bundle is made of.

run.py     a folder that `xfer train` wrote
module.py  somebody's own nn.Module: `xfer export module:function`
sb3.py     a file that Stable-Baselines3 saved: `xfer export model.zip --from sb3`
onnx.py    anybody's ONNX graph: `xfer export policy.onnx --spec spec.json`
lerobot.py a policy that LeRobot trained: `xfer export pretrained_model --from lerobot`

Helpers are in files whose names begin with an underscore: ``_choose`` picks the importer, ``_recordings`` records the
observations of a policy that comes without any.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import tyro

from xfer.errors import UsageError
from xfer.files import from_json, sha256
from xfer.spec import PolicySpec
from xfer.trajectories import MEMORY, Trajectories
from xfer.trajectories.reading import ROWS_AT_ONCE

if TYPE_CHECKING:
    from export.onnx_graph import GraphPolicy
    from xfer.models.policy import Exportable

FACTS = "source.json"
ROWS_IN_MEMORY = 4 * ROWS_AT_ONCE
"""Calibration has a quarter of the memory."""


@dataclass(frozen=True)
class Facts:
    """``source.json``: whose policy it is that a folder keeps observations of, where that was trained elsewhere.

    Attributes:
        source: What it was imported from.
        weights: Its digest, as in the bundle's provenance.
        spec: Its contract, with the reward scale if there is one.
        max_episode_steps: Steps after which the episodes were truncated that the scale was measured in, or None.
    """

    source: str
    weights: str
    spec: PolicySpec
    max_episode_steps: int | None = None


def read_facts(folder: Path) -> Facts | None:
    """Return whose observations ``folder`` keeps, or None if it is no such folder."""
    try:
        return from_json((folder / FACTS).read_bytes(), Facts)
    except (OSError, msgspec.DecodeError):
        return None


def weights_of(folder: Path) -> str | None:
    """Return the digest of the policy whose observations are in a folder, or None if it keeps none."""
    trained = folder / "policy.safetensors"
    if trained.is_file():
        return sha256(trained)
    facts = read_facts(folder)
    return None if facts is None else facts.weights


@dataclass(kw_only=True)
class ImportOptions:
    """For a policy that was trained elsewhere."""

    observations: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Observations recorded while the policy acted (.safetensors or .safetensors.gz: resets, bool [T], and
    observations.NAME, [T, ...]; with actions, [T, ...], if another runtime acted: they must be the module's). By
    default they are recorded in its task."""
    task: Annotated[str | None, tyro.conf.arg(metavar="TASK")] = None
    """Where the policy acts: env:ENV_ID is a Gymnasium environment's own observations; any other task, your own
    module:function too."""
    importer: Annotated[Literal["sb3", "lerobot"] | None, tyro.conf.arg(name="from", metavar="{sb3,lerobot}")] = None
    """What wrote the policy: sb3 is a file of Stable-Baselines3's PPO, A2C, DQN or SAC; lerobot a folder of LeRobot's
    ACT."""
    spec: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """What the inputs and outputs of an ONNX graph are; `xfer spec` writes a first one."""
    trust: bool = False
    """The file's author may run code here: it holds pickles."""
    vecnormalize: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """SB3: the file that VecNormalize.save wrote."""
    frame_stack: int = 1
    """SB3: what VecFrameStack was given."""
    control_hz: Annotated[float | None, tyro.conf.arg(metavar="HZ")] = None
    """Rate at which a policy acts, in Hz (default: its task's; else for SB3 30, for LeRobot what it was trained on)."""


@dataclass(frozen=True)
class ImportedPolicy:
    """A policy and its recorded observations.

    Observations are read when they are first asked for: frames of a thousand steps take a second, which an export that
    finds everything unchanged need not spend.

    Attributes:
        policy: The policy, in eval mode.
        folder: Where its observations are kept, apart from the bundle: a run folder, or one that looks like it.
        reference: The variant that all others are compared with.
        renewed: Whether the observations were given or recorded just now, and may be others than before.
        memory: Bytes of observations that may be in memory at once.
        max_episode_steps: Steps after which the episodes were truncated that it was trained in, or its reward scale
            was measured in, or None.

    Raises:
        RunError: By the properties, if their file is missing or damaged.
    """

    policy: Exportable | GraphPolicy
    folder: Path
    reference: str = "eager-fp32"
    renewed: bool = False
    memory: int = MEMORY
    max_episode_steps: int | None = None

    @cached_property
    def calibration(self) -> Trajectories:
        """Observations that were recorded while the policy acted, for int8."""
        return self._recorded("calibration", self.memory // 4)

    @cached_property
    def held_out(self) -> Trajectories:
        """Others, from other episodes, on which variants are judged."""
        return self._recorded("held-out", self.memory // 2)  # the rest is for a repair's

    def _recorded(self, name: str, memory: int) -> Trajectories:
        from xfer.training.run_folder import RunFolder  # which needs torch

        return RunFolder(self.folder).observations(name, memory)


def check_memory(spec: PolicySpec, memory: int) -> None:
    """See whether the rows that are in memory at once fit into it.

    Raises:
        UsageError: If they do not.
    """
    least = ROWS_IN_MEMORY * spec.bytes_per_step
    if memory < least:
        raise UsageError(
            f"--max-memory {memory / 1e9:g} is too little: {ROWS_IN_MEMORY} observations are in memory at once, of"
            f" {in_words(spec.bytes_per_step)} each. Give {least / 1e9 + 0.005:.2f} (GB) or more."
        )


def in_words(size: float) -> str:
    """Return a number of bytes in words.

    Example:
        >>> in_words(6_945_177_600)
        '6.9 GB'
    """
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.5 else f"{size:.2g} {unit}"
        size /= 1000
    return f"{size:.3g} GB" if size >= 99.5 else f"{size:.2g} GB"
