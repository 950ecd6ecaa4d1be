"""Where a network's weights come from: torchvision, a file, another run; and what of them fits."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from xfer.errors import UsageError, WeightsError
from xfer.models.backbones import BACKBONES, STAGES, last_name
from xfer.models.cameras import Each

if TYPE_CHECKING:
    from xfer.models.policy import Policy


WRAPPER_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and ``torch.compile`` put before every key of a state dict."""


TRUNK = "trunk."
"""What a policy's state dict puts before the backbone's keys."""


@dataclass(frozen=True)
class Loaded:
    """What a weights source gave.

    Attributes:
        source: The file or run.
        taken: Names of the tensors that were taken.
        left_out: Names of those in the source that have no place in the policy, or not with that shape.
        note: What else is worth knowing, or empty.
    """

    source: str
    taken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        """Say it in one line, by module."""
        count = f"{len(self.taken)} tensors" if self.taken else "nothing"
        taken = f" ({_modules(self.taken)})" if self.taken else ""
        left_out = _modules(self.left_out) or "nothing"
        return f"took {count}{taken} from {self.source}; left out: {left_out}{self.note and f'. {self.note}'}"


def load_weights(policy: Policy, source: str) -> Loaded:
    """Load pretrained weights into a policy. There is no fallback from one source to another.

    The trunk is taken whole or not at all; where each camera has its own, all begin with the same. From another run the
    head is taken as well, as far as it reads the same features with the same shapes: modules in order, up to the first
    that differs.

    Args:
        policy: Changed in place.
        source: ``imagenet`` (torchvision's default weights, cached by torch.hub, downloaded where there is a
            network), ``none`` (random weights stay), a file (safetensors, or a state dict that is loaded with
            ``weights_only=True``), or the folder of another xfer run.

    Raises:
        WeightsError: If the file is missing, damaged, holds code, or is of another architecture.
        UsageError: If ``source`` is none of these.
    """
    if source == "none":
        return Loaded(source)
    backbone, note, head = policy.config.backbone, "", False
    if source == "imagenet":
        file, note = _imagenet(backbone)
        state = _read(file)
    elif (Path(source) / "policy.safetensors").is_file():
        state = _read(Path(source) / "policy.safetensors")
        head = _check_run(Path(source), policy)
    else:
        file = Path(source)
        if not file.is_file():
            raise UsageError(
                f"--weights '{source}' is not a file or a finished run. Choose imagenet, none, a weights file, or"
                " the folder of an xfer run."
            )
        state = _read(file)
    source = file.name if source == "imagenet" else source
    state = _for_each_camera(_policy_keys(state, backbone), policy)
    wanted = policy.state_dict()
    taken = _fitting_trunk(state, wanted, source, backbone)
    taken += _fitting_head(state, wanted) if head else []
    policy.load_state_dict({**wanted, **{key: state[key] for key in taken}})
    left_out = [key for key in state if key not in taken]
    return Loaded(source, _without_trunk(taken), _without_trunk(left_out), note)


def _fitting_trunk(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str, backbone: str) -> list[str]:
    """Return the names of the trunk's tensors: all of them."""
    names = [key for key in wanted if key.startswith(TRUNK)]
    # torchvision counts batches only since 0.3; files without the counter are whole.
    missing = [k for k in names if k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{source} does not hold the weights of {backbone}: '{missing[0].removeprefix(TRUNK)}' is missing"
            f" ({len(missing)} of {len(names)} tensors are). Give a file of that architecture."
        )
    taken = [key for key in names if key in state]
    for key in taken:
        if state[key].shape != wanted[key].shape:
            raise WeightsError(
                f"{source} is of another architecture than {backbone}: '{key.removeprefix(TRUNK)}' has shape"
                f" {list(state[key].shape)}, expected {list(wanted[key].shape)}."
            )
    return taken


def _fitting_head(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors outside the trunk that can be taken, a module whole or not at all."""
    modules: dict[str, list[str]] = {}
    for key in wanted:
        if not key.startswith(TRUNK):
            modules.setdefault(key.rpartition(".")[0], []).append(key)
    taken: list[str] = []
    head_fits = True
    for module, keys in modules.items():
        fits = all(key in state and state[key].shape == wanted[key].shape for key in keys)
        if module.startswith("head."):  # what comes behind another layer reads other features
            fits = head_fits = fits and head_fits
        taken += keys if fits else []
    return taken


def _imagenet(backbone: str) -> tuple[Path, str]:
    """Return torchvision's default weights of a backbone, downloaded if need be, and what is odd about them."""
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
    name = weights.url.rsplit("/", 1)[-1]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    prefix = name.removesuffix(".pth").rsplit("-", 1)[-1]  # of the SHA-256: torch.hub's convention
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(file), hash_prefix=prefix)
        except OSError as error:  # urllib's URLError among them
            raise WeightsError(
                f"Cannot download {weights.url} ({error}). Put {name} into {file.parent}, or use --weights FILE or"
                " --weights none."
            ) from error
        except RuntimeError as error:  # the hash
            raise WeightsError(f"Cannot download {weights.url}: {error}. Try again.") from error
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest.startswith(prefix):
        return file, ""
    if not zipfile.is_zipfile(file):  # the older format has no checksums of its own
        raise WeightsError(f"{file} is damaged: its SHA-256 does not begin with {prefix}. Delete it.")
    return file, f"It is not torchvision's own file: its SHA-256 begins with {digest[: len(prefix)]}"


def _check_run(folder: Path, policy: Policy) -> bool:
    """Refuse a run whose network ends too early, or has other trunks; say whether its head reads the same features."""
    from xfer.models.checkpoint import load_description

    config, description = policy.config, load_description(folder)
    other, cameras = description.config, sum(o.is_image for o in description.spec.observations)
    if other.trunks == "each" and (config.trunks, len(policy.cameras)) != ("each", cameras):
        raise WeightsError(
            f"{folder} has a trunk for each of its {cameras} cameras: only a policy with as many and --trunks each can"
            " begin from it."
        )
    if other.backbone != config.backbone:
        raise WeightsError(f"{folder} is a {other.backbone}: use --backbone {other.backbone}.")
    stages = STAGES[config.backbone]
    if stages.index(other.tap) < stages.index(config.tap):
        raise WeightsError(f"The network of {folder} ends with {other.tap}: use --tap {other.tap} or an earlier stage.")
    return (other.tap, other.head) == (config.tap, config.head)


def _read(path: Path) -> dict[str, Tensor]:
    """Read a state dict, without running anything that the file holds."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            _check_crc(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it refers to {found[1]}, which is no tensor; nothing of it was run" if found else "it is no pickle"
        raise WeightsError(f"{path} is not a readable weights file: {reason}.") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} is not a readable weights file: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} holds no state dict (a mapping of names to tensors).")
    return state


def _check_crc(path: Path) -> None:
    """Compare the checksums in the file, which PyTorch writes but does not look at."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"'{damaged}' in it is damaged (CRC-32).")


def _policy_keys(state: dict[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Strip wrappers' prefixes, and call a backbone's tensors what a policy calls them."""
    wrapped = re.compile(f"^({'|'.join(map(re.escape, WRAPPER_PREFIXES))})+")
    state = {wrapped.sub("", key): value for key, value in state.items()}
    if any(key.startswith(TRUNK) for key in state):
        return state
    return {TRUNK + _stage_key(key, backbone): value for key, value in state.items()}


def _for_each_camera(state: dict[str, Tensor], policy: Policy) -> dict[str, Tensor]:
    """Give each camera's trunk the weights of the only one that there is, where cameras have trunks of their own."""
    own = policy.trunk
    if not isinstance(own, Each) or any(key.startswith(f"{TRUNK}0.") for key in state):
        return state
    copied: dict[str, Tensor] = {}
    for key, value in state.items():
        rest = key.removeprefix(TRUNK)
        copied |= {key: value} if rest == key else {f"{TRUNK}{camera}.{rest}": value for camera in range(len(own))}
    return copied


def _stage_key(key: str, backbone: str) -> str:
    """Return the name within our stages of what torchvision calls ``key``."""
    for stage, paths in BACKBONES[backbone].items():
        for path in paths:
            if key.startswith(f"{path}."):
                return f"{stage}.{last_name(path)}{key.removeprefix(path)}"
    return key


def _without_trunk(names: list[str]) -> tuple[str, ...]:
    return tuple(name.removeprefix(TRUNK) for name in names)


def _modules(names: Iterable[str]) -> str:
    """Shorten names of tensors to the stages, or modules of the head, that they belong to."""
    stages = (re.sub(r"^\d+\.", "", name) for name in names)  # without the number of the camera whose trunk it is
    short = (name.rpartition(".")[0] if name.startswith("head.") else name.split(".")[0] for name in stages)
    return ", ".join(dict.fromkeys(short))
