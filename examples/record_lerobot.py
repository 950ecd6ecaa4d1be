"""Record what a LeRobot policy sees and does, for ``xfer export PRETRAINED_MODEL --from lerobot --observations FILE``.

Run it where LeRobot is installed; xfer is not needed there::

    python record_lerobot.py outputs/train/act/checkpoints/last/pretrained_model --dataset FOLDER
    python record_lerobot.py outputs/train/act/checkpoints/last/pretrained_model --env pusht

The policy acts by its own ``select_action`` and processors: on the frames of a LeRobot dataset, one after the other, or
in one of LeRobot's environments. ``xfer export`` compares what it exports with these actions, calibrates int8 on these
observations, and judges on them. The file holds ``resets``, bool [T]; ``observations.NAME``, [T, ...], images uint8
[T, H, W, C]; and ``actions``, float32 [T, A].
"""

import argparse
import json
import re
import struct
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

Seen = tuple[bool, dict[str, Any]]
"""Does an episode begin here, and observations [1, ...] by LeRobot's names, images float [1, C, H, W] from 0 to 1."""


def short_names(keys: list[str]) -> list[str]:
    """Return what xfer calls LeRobot's observations: the last part of each, where that is no other's too."""
    short = [re.sub(r"^observation\.(images\.)?", "", key) for key in keys]
    clear = [name for name in short if short.count(name) == 1 and name not in ("action", "scores")]
    return [re.sub(r"\W", "_", name if name in clear else key) for name, key in zip(short, keys, strict=True)]


class Recording:
    """A .safetensors file of a known size that is filled row by row, and need not fit into memory."""

    def __init__(self, file: Path, rows: int, first: dict[str, np.ndarray]) -> None:
        kinds = {"uint8": "U8", "float32": "F32", "bool": "BOOL"}
        header, end = {}, 0
        for name, array in first.items():
            begin, end = end, end + rows * array.nbytes
            about = {"dtype": kinds[str(array.dtype)], "shape": [rows, *array.shape], "data_offsets": [begin, end]}
            header[name] = about
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write_bytes(struct.pack("<Q", len(text)) + text)
        with file.open("r+b") as whole:
            whole.truncate(8 + len(text) + end)
        self.arrays = {
            name: np.memmap(
                file, array.dtype, "r+", 8 + len(text) + header[name]["data_offsets"][0], (rows, *array.shape)
            )
            for name, array in first.items()
        }

    def write(self, row: int, arrays: dict[str, np.ndarray]) -> None:
        """Fill a row."""
        for name, array in arrays.items():
            self.arrays[name][row] = array


def from_dataset(folder: Path, keys: list[str]) -> tuple[int, Generator[Seen, Any, None]]:
    """Return how many frames a LeRobot dataset has, and what yields them."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset(f"local/{folder.name}", root=folder)

    def frames() -> Generator[Seen, Any, None]:
        episode = None
        for i in range(len(data)):
            frame = data[i]
            begins, episode = frame["episode_index"] != episode, frame["episode_index"]
            yield bool(begins), {key: frame[key][None] for key in keys}

    return len(data), frames()


def from_env(kind: str, task: str | None, config: Any, seed: int) -> Generator[Seen, Any, None]:
    """Yield what one of LeRobot's environments shows; send it the action [1, A]."""
    from lerobot.envs.factory import make_env, make_env_config, make_env_pre_post_processors
    from lerobot.envs.utils import preprocess_observation

    env_config = make_env_config(kind, **({"task": task} if task else {}))
    suites = make_env(env_config, n_envs=1)
    env = next(iter(next(iter(suites.values())).values()))
    before, after = make_env_pre_post_processors(env_config, config)
    while True:
        observation, _ = env.reset(seed=[seed])
        begins, over, seed = True, False, seed + 1
        while not over:
            action = yield begins, before(preprocess_observation(observation))
            observation, _, terminated, truncated, _ = env.step(after({"action": action})["action"].numpy())
            begins, over = False, bool(terminated[0] or truncated[0])


def main() -> None:
    """Record what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="folder pretrained_model of a checkpoint")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dataset", type=Path, help="folder of a LeRobot dataset, the one it was trained on or another")
    where.add_argument("--env", help="type of one of LeRobot's environments: pusht, aloha ...")
    parser.add_argument("--task", help="that environment's task (default: its own)")
    parser.add_argument("--seed", type=int, default=10_000, help="that of the first episode in an environment")
    parser.add_argument("--steps", type=int, default=1000, help="how many to record, at most")
    parser.add_argument("--output", type=Path, default=Path("recorded.safetensors"))
    args = parser.parse_args()

    import torch
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(args.policy)
    config.device = "cpu"  # where fp32 is fp32, without TF32
    policy = get_policy_class(config.type).from_pretrained(args.policy, config=config)
    overrides = {"device_processor": {"device": "cpu"}}
    before, after = make_pre_post_processors(config, str(args.policy), preprocessor_overrides=overrides)
    renamed = {}
    for step in before.steps:
        renamed |= {new: old for old, new in getattr(step, "rename_map", {}).items()}
    vectors = [key for key in ("observation.state", "observation.environment_state") if key in config.input_features]
    keys = [renamed.get(key, key) for key in (*config.image_features, *vectors)]
    names = dict(zip(keys, short_names(keys), strict=True))
    rows = args.steps
    if args.dataset:
        total, source = from_dataset(args.dataset, keys)
        rows = min(rows, total)
    else:
        source = from_env(args.env, args.task, config, args.seed)

    recording, action, resets = None, None, 0
    for row in range(rows):
        begins, seen = source.send(action)
        arrays = {"resets": np.array(begins)}
        for key, name in names.items():
            if seen[key].ndim == 4:  # as the camera gave it; and the policy sees exactly that
                image = (seen[key] * 255).round().clamp(0, 255).to(torch.uint8)
                seen[key] = image.float() / 255
                arrays[f"observations.{name}"] = image[0].permute(1, 2, 0).numpy()
            else:
                arrays[f"observations.{name}"] = seen[key][0].float().numpy()
        if begins:
            policy.reset()
            resets += 1
        with torch.inference_mode():
            action = after(policy.select_action(before(seen)))
        arrays["actions"] = action[0].float().numpy()
        recording = recording or Recording(args.output, rows, arrays)
        recording.write(row, arrays)
    print(f"{args.output}: {rows} steps of {resets} episodes; {', '.join(f'{n} is {k}' for k, n in names.items())}")


if __name__ == "__main__":
    main()
