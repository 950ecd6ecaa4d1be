"""The files of a policy that LeRobot trained: a ``pretrained_model`` folder.

outputs/train/NAME/checkpoints/last/pretrained_model/
  config.json                   the policy's type and its configuration
  model.safetensors             weights
  policy_preprocessor.json      what happens to observations, in steps; a step may name a file of its tensors
  policy_postprocessor.json     what happens to actions
  train_config.json             what it was trained on
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from xfer.errors import UsageError, WeightsError
from xfer.files import from_json

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

CONFIG, WEIGHTS, TRAIN_CONFIG = "config.json", "model.safetensors", "train_config.json"
BELOW = (".", "pretrained_model", "last/pretrained_model", "checkpoints/last/pretrained_model")
"""Where the files are in what a user may mean: the folder itself, a checkpoint, all of them, the training's output."""


def find(path: Path) -> Path:
    """Return the folder of a policy's files.

    Args:
        path: It, a checkpoint, or the output folder of ``lerobot-train``, of which the last checkpoint is taken.

    Raises:
        WeightsError: If there is none.
    """
    for below in BELOW:
        if (path / below / CONFIG).is_file():
            return path / below
    if not path.is_dir():
        raise WeightsError(
            f"{path} is no folder here. A policy on the Hugging Face Hub is downloaded first: hf download"
            f" {path} --local-dir FOLDER."
        )
    raise WeightsError(
        f"{path} holds no policy of LeRobot: there is no {CONFIG} in it, nor in {BELOW[-1]}. Give the"
        " pretrained_model folder of a checkpoint."
    )


def read_json(file: Path, kind: type[T]) -> T:
    """Read a file of LeRobot's.

    Raises:
        WeightsError: If it is missing, no JSON, or says what LeRobot does not write, with the field.
    """
    try:
        return from_json(file.read_bytes(), kind)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} is not as LeRobot writes it: {error}.") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a file of tensors; floating ones become float32.

    Raises:
        WeightsError: If it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise WeightsError(f"{file} is damaged: {error}.") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def trained_hz(folder: Path) -> float:
    """Return the rate of what a policy was trained on: its environment's, or its dataset's where that is still there.

    Raises:
        UsageError: If neither is known.
    """
    config: dict[str, Any] = {}
    if (folder / TRAIN_CONFIG).is_file():
        config = read_json(folder / TRAIN_CONFIG, dict[str, Any])
    dataset = config.get("dataset") or {}
    found = [(config.get("env") or {}).get("fps")]
    if root := dataset.get("root"):
        info = Path(root) / "meta" / "info.json"
        found.append(read_json(info, dict[str, Any]).get("fps") if info.is_file() else None)
    for fps in found:
        if isinstance(fps, int | float) and not isinstance(fps, bool) and fps > 0:
            return float(fps)
    name = f" The dataset was {dataset['repo_id']}; its meta/info.json has the fps." if dataset.get("repo_id") else ""
    raise UsageError(f"{folder} does not say at which rate the policy acts: --control-hz HZ.{name}")
