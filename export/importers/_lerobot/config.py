"""``config.json`` of an ACT: what inference depends on, and what is not taken."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from export.importers._lerobot.files import CONFIG, read_json
from export.importers._lerobot.processors import ACTION, Feature
from xfer.errors import UsageError, WeightsError

STATE, ENVIRONMENT_STATE = "observation.state", "observation.environment_state"
VECTORS = {STATE: "STATE", ENVIRONMENT_STATE: "ENV"}
"""What ACT sees besides images, in its order, and of which type each must be; others it does not look at."""
BACKBONES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}
"""torchvision's networks, and the channels of their last feature map."""
NOT_DILATED = ("resnet18", "resnet34")
ACTIVATIONS = ("relu", "gelu")
COUNTS = (
    *("chunk_size", "n_action_steps", "dim_model", "n_heads", "dim_feedforward"),
    *("n_encoder_layers", "n_decoder_layers", "latent_dim"),
)
OTHERS = {
    *("type", "device", "use_amp", "push_to_hub", "repo_id", "private", "tags", "license", "dropout", "kl_weight"),
    *("pretrained_path", "pretrained_revision", "pretrained_backbone_weights", "use_vae", "n_vae_encoder_layers"),
    *("optimizer_lr", "optimizer_weight_decay", "optimizer_lr_backbone", "use_peft"),
}
"""Fields that change nothing of what a trained policy does."""


@dataclass(frozen=True, kw_only=True)
class ACTConfig:
    """What inference depends on; ``lerobot.policies.act.configuration_act`` of LeRobot 0.6.1 describes it."""

    input_features: dict[str, Feature]
    output_features: dict[str, Feature]
    normalization_mapping: dict[str, str]
    n_obs_steps: int = 1
    chunk_size: int = 100
    n_action_steps: int = 100
    vision_backbone: str = "resnet18"
    replace_final_stride_with_dilation: bool | int = False
    pre_norm: bool = False
    dim_model: int = 512
    n_heads: int = 8
    dim_feedforward: int = 3200
    feedforward_activation: str = "relu"
    n_encoder_layers: int = 4
    n_decoder_layers: int = 1
    latent_dim: int = 32
    temporal_ensemble_coeff: float | None = None

    @property
    def images(self) -> dict[str, Feature]:
        """The cameras, in the network's order."""
        return {key: feature for key, feature in self.input_features.items() if feature.type == "VISUAL"}

    @property
    def vectors(self) -> dict[str, Feature]:
        """What else the network sees, in its order: joints, and the environment's state."""
        given = {key: self.input_features.get(key) for key in VECTORS}
        return {key: one for key, one in given.items() if one is not None and one.type == VECTORS[key]}

    @property
    def action(self) -> Feature:
        """The action."""
        return self.output_features[ACTION]


def read_config(folder: Path) -> ACTConfig:
    """Read the configuration of an ACT.

    Raises:
        UsageError: If the policy is of another type, or something of it is not taken, with the field.
        WeightsError: If the file is damaged.
    """
    file = folder / CONFIG
    raw = read_json(file, dict[str, Any])
    if raw.get("type") != "act":
        named = f"a policy of type '{raw['type']}'" if raw.get("type") else "a policy without a type"
        raise UsageError(f"{file}: {named} is not taken; act is. Export another as module:function.")
    if raw.get("use_peft"):
        raise UsageError(f"{file}: use_peft: the weights are an adapter's. Merge it into its policy first.")
    known = OTHERS | {field.name for field in fields(ACTConfig)}
    if unknown := [name for name, value in raw.items() if name not in known and value not in (None, False, [], {})]:
        raise UsageError(
            f"{file}: its field '{unknown[0]}' ({raw[unknown[0]]}) is none of LeRobot 0.6's ACT, and nobody knows what"
            " it changes."
        )
    try:
        config = msgspec.convert(raw, ACTConfig)
    except msgspec.ValidationError as error:
        raise WeightsError(f"{file} is not as LeRobot writes it: {error}.") from error
    if faults := _faults(config):
        raise UsageError(f"{file}: {faults[0]}.")
    return config


def _faults(config: ACTConfig) -> list[str]:
    """Return what LeRobot itself would not run, or what is not taken here, each by its field."""
    small = [f"{name} {getattr(config, name)} must be 1 or more" for name in COUNTS if getattr(config, name) < 1]
    features = {**config.input_features, **config.output_features}
    small += [f"{key} has shape {list(one.shape)}" for key, one in features.items() if min(one.shape, default=0) < 1]
    if small:
        return small
    action = config.output_features.get(ACTION)
    ensembled = config.temporal_ensemble_coeff is not None
    environment = [key for key, one in config.input_features.items() if one.type == "ENV" and key != ENVIRONMENT_STATE]
    dilated = config.replace_final_stride_with_dilation and config.vision_backbone in NOT_DILATED
    found = [
        (config.n_obs_steps != 1, f"n_obs_steps {config.n_obs_steps}: ACT sees one step"),
        (
            config.n_action_steps > config.chunk_size,
            f"n_action_steps {config.n_action_steps} is more than chunk_size {config.chunk_size}",
        ),
        (
            ensembled and config.n_action_steps != 1,
            f"temporal_ensemble_coeff needs n_action_steps 1, not {config.n_action_steps}",
        ),
        (
            config.vision_backbone not in BACKBONES,
            f"vision_backbone '{config.vision_backbone}' is none of {', '.join(BACKBONES)}",
        ),
        (dilated, f"replace_final_stride_with_dilation: torchvision dilates no {config.vision_backbone}"),
        (
            config.feedforward_activation not in ACTIVATIONS,
            f"feedforward_activation '{config.feedforward_activation}' is none of {', '.join(ACTIVATIONS)}",
        ),
        (
            config.dim_model % config.n_heads > 0,
            f"dim_model {config.dim_model} is no multiple of n_heads {config.n_heads}",
        ),
        (bool(config.images) and config.dim_model % 4 > 0, f"dim_model {config.dim_model} is no multiple of 4"),
        (
            not config.images and ENVIRONMENT_STATE not in config.vectors,
            f"input_features has neither an image nor {ENVIRONMENT_STATE}",
        ),
        (bool(environment), f"input_features: ACT reads the environment's state from {ENVIRONMENT_STATE} only"),
        (action is None or len(action.shape) != 1, "output_features has no 'action' that is a vector"),
    ]
    found += [
        (one.shape[0] != 3 or len(one.shape) != 3, f"{key} has shape {list(one.shape)}, not [3, height, width]")
        for key, one in config.images.items()
    ]
    found += [
        (len(one.shape) != 1, f"{key} has shape {list(one.shape)}, and is no vector")
        for key, one in config.vectors.items()
    ]
    return [said for holds, said in found if holds]
