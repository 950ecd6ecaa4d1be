"""Makes what is in this folder, where LeRobot 0.6.1 is installed: python make.py.

Of each policy it keeps the configuration, both processors with their statistics, and ``actions.safetensors``: what
LeRobot's own ``select_action`` and post-processor gave for the observations in ``drawn.py``, for one robot (``one``,
[60, A]) and for three at once (``three``, [60, 3, A]).
"""

from pathlib import Path

import numpy as np
import torch
from drawn import RESET, ROWS, STEPS, observation, statistics, weight
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors
from safetensors.numpy import save_file

HERE = Path(__file__).parent
IMAGE, VECTOR, ENV = FeatureType.VISUAL, FeatureType.STATE, FeatureType.ENV
SMALL = {"dim_model": 32, "n_heads": 4, "dim_feedforward": 48, "n_encoder_layers": 2, "n_vae_encoder_layers": 1}
SMALL |= {"latent_dim": 6, "pretrained_backbone_weights": None, "device": "cpu", "push_to_hub": False}
CASES = {
    # Two cameras of different sizes, one renamed by the preprocessor, and joints.
    "cameras": {
        "inputs": {
            "observation.images.top": (IMAGE, (3, 48, 64)),
            "observation.state": (VECTOR, (5,)),
            "observation.images.wrist": (IMAGE, (3, 32, 36)),
        },
        "rename_map": {"observation.images.front": "observation.images.top"},
        "modes": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "QUANTILES"},
        "options": {"chunk_size": 8, "n_action_steps": 5},
    },
    # Temporal ensembling, and all that the first has not: the environment's state, normalization first, GELU.
    "ensemble": {
        "inputs": {
            "observation.environment_state": (ENV, (3,)),
            "observation.image": (IMAGE, (3, 40, 40)),
            "observation.state": (VECTOR, (4,)),
        },
        "rename_map": {},
        "modes": {"VISUAL": "QUANTILES", "STATE": "QUANTILE10", "ENV": "MIN_MAX", "ACTION": "MEAN_STD"},
        "options": {"chunk_size": 6, "n_action_steps": 1, "temporal_ensemble_coeff": 0.01, "pre_norm": True}
        | {"feedforward_activation": "gelu", "n_decoder_layers": 2},
    },
    # A larger trunk, dilated; no joints and no variational encoder.
    "dilated": {
        "inputs": {"observation.images.top": (IMAGE, (3, 32, 48))},
        "rename_map": {},
        "modes": {"VISUAL": "IDENTITY", "ACTION": "MIN_MAX"},
        "options": {"chunk_size": 4, "n_action_steps": 4, "vision_backbone": "resnet50", "use_vae": False}
        | {"replace_final_stride_with_dilation": True},
    },
}


def act(case: str, folder: Path, policy: ACTPolicy, rows: int) -> np.ndarray:
    """Return [STEPS, rows, A]: what LeRobot does, through the processors in its files."""
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    back = {new: old for old, new in CASES[case]["rename_map"].items()}
    seen = {key: feature.shape for key, feature in policy.config.input_features.items()}
    seen = {"observation.state": (1,)} | seen  # which ACT looks for even where it does not see it
    given = {back.get(key, key): observation(case, key, shape)[:, :rows] for key, shape in seen.items()}
    actions = []
    for step in range(STEPS):
        if step in (0, RESET):
            policy.reset()
        tensors = {key: torch.from_numpy(array[step]) for key, array in given.items()}
        tensors = {k: x.permute(0, 3, 1, 2).float() / 255 if x.dtype == torch.uint8 else x for k, x in tensors.items()}
        actions.append(after(policy.select_action(before(tensors))).numpy())
    return np.stack(actions)


def main() -> None:
    """Make all."""
    for name, case in CASES.items():
        folder = HERE / name
        inputs = {key: PolicyFeature(kind, shape) for key, (kind, shape) in case["inputs"].items()}
        outputs = {"action": PolicyFeature(FeatureType.ACTION, (4,))}
        modes = {kind: NormalizationMode(mode) for kind, mode in case["modes"].items()}
        options = {"normalization_mapping": modes, **SMALL, **case["options"]}
        config = ACTConfig(input_features=inputs, output_features=outputs, **options)
        policy = ACTPolicy(config).eval()
        drawn = {key: torch.from_numpy(weight(key, tuple(one.shape))) for key, one in policy.state_dict().items()}
        policy.load_state_dict(drawn)
        known = {key: statistics(name, key, one.shape) for key, one in {**inputs, **outputs}.items()}
        known = {key: {stat: torch.from_numpy(x) for stat, x in one.items()} for key, one in known.items()}
        before, after = make_pre_post_processors(config, dataset_stats=known)
        before.steps[0].rename_map = case["rename_map"]
        config.save_pretrained(folder)
        before.save_pretrained(folder)
        after.save_pretrained(folder)
        three, one = act(name, folder, policy, ROWS), act(name, folder, policy, 1)[:, 0]
        save_file({"three": three, "one": one}, folder / "actions.safetensors")
        print(name, "spread", three.std((0, 1)), "one and three", np.abs(three[:, 0] - one).max())


if __name__ == "__main__":
    main()
