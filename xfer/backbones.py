"""torchvision backbones as a list of named stages, and where their weights come from."""

from __future__ import annotations

import urllib.error
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from xfer.errors import UsageError, WeightsError, check_choice

STAGES = {"resnet18": ("stem", "layer1", "layer2", "layer3", "layer4")}
"""The stages of each backbone, in order; a head can tap any of them, and ``--train-from`` names one."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and ``torch.compile`` put before every key of a state dict."""


def build(name: str, tap: str) -> nn.Sequential:
    """Return the backbone with random weights, cut behind stage ``tap``.

    Stage names are kept as torchvision's (``layer1.0.conv1.weight``); the stem's are prefixed with ``stem``.

    Raises:
        UsageError: On an unknown backbone or stage.
    """
    check_choice("backbone", name, STAGES)
    stages = STAGES[name]
    check_choice("tap layer", tap, stages)
    net = torchvision.models.get_model(name, weights=None)
    stem = nn.Sequential(OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool))
    whole = OrderedDict(stem=stem, **{stage: getattr(net, stage) for stage in stages[1:]})
    return nn.Sequential(OrderedDict((s, whole[s]) for s in stages[: stages.index(tap) + 1]))


@dataclass(frozen=True)
class Loaded:
    """What a weights source gave: how many tensors were taken, and which keys were left out."""

    source: str
    taken: int
    left_out: tuple[str, ...]


def load_weights(trunk: nn.Sequential, backbone: str, source: str) -> Loaded:
    """Load pretrained weights into a (possibly cut) backbone. There is no fallback from one source to another.

    Args:
        trunk: What ``build`` returned; changed in place.
        backbone: Its name, e.g. ``resnet18``.
        source: ``imagenet`` (torchvision's default weights, cached by torch.hub, downloaded where there is a
            network), ``none`` (random weights stay), a file (safetensors, or a state dict that is loaded with
            ``weights_only=True``), or the folder of another xfer run.

    Raises:
        WeightsError: If the file is missing, damaged, holds code, or is of another architecture.
        UsageError: If ``source`` is none of these.
    """
    if source == "none":
        return Loaded(source, 0, ())
    state = _imagenet(backbone) if source == "imagenet" else _from_path(Path(source))
    state = {_plain_key(key): value for key, value in state.items()}
    wanted = trunk.state_dict()
    taken = {key: state[key] for key in wanted if key in state}
    # torchvision counts batches only since 0.3; files without the counter are whole.
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{source} does not hold the weights of {backbone}: '{missing[0]}' is missing"
            f" ({len(missing)} of {len(wanted)} tensors are). Give a file of that architecture."
        )
    for key, value in taken.items():
        if value.shape != wanted[key].shape:
            raise WeightsError(
                f"{source} is of another architecture than {backbone}: '{key}' has shape"
                f" {list(value.shape)}, expected {list(wanted[key].shape)}."
            )
    trunk.load_state_dict({**wanted, **taken})
    left_out = tuple(sorted(key for key in state if key not in wanted))
    return Loaded(source, len(taken), left_out)


def _imagenet(backbone: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError) as error:
        name = weights.url.rsplit("/", 1)[-1]
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"Cannot download {weights.url} ({error}). Put {name} into {folder}, or use --weights FILE or"
            " --weights none."
        ) from error
    except RuntimeError as error:  # torch.hub's hash check
        raise WeightsError(f"Weights of {backbone}: {error}. Delete the cached file.") from error
    return state


def _from_path(path: Path) -> dict[str, Tensor]:
    if (path / "policy.safetensors").is_file():
        path = path / "policy.safetensors"
    if not path.is_file():
        raise UsageError(
            f"--weights '{path}' is not a file or a run. Choose imagenet, none, a weights file, or the folder"
            " of an xfer run."
        )
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} is not a readable weights file: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds no state dict (a mapping of names to tensors).")
    return state


def _plain_key(key: str) -> str:
    """Strip wrappers' prefixes, and map torchvision's and our own policy's names to stage names."""
    while key.startswith(WRAPPER_PREFIXES):
        key = key.split(".", 1)[1]
    key = key.removeprefix("trunk.")
    return f"stem.{key}" if key.startswith(("conv1.", "bn1.")) else key
