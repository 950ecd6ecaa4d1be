"""Turn a Minari dataset that `xfer record` wrote into a LeRobot dataset.

Run it where LeRobot is installed, with h5py beside it (``pip install 'lerobot[training]' h5py``); xfer is not needed::

    xfer record reach --output reach-demonstrations --episodes 300
    python minari_to_lerobot.py reach-demonstrations reach-lerobot --fps 50
    lerobot-train --policy.type=act --dataset.repo_id=xfer/reach --dataset.root=reach-lerobot ...

An image called ``frame`` becomes ``observation.images.frame``, kept lossless; the vector becomes ``observation.state``.
"""

import argparse
from pathlib import Path

import h5py
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of the Minari dataset")
    parser.add_argument("output", type=Path, help="folder of the LeRobot dataset, which must not be there yet")
    parser.add_argument("--fps", type=int, required=True, help="rate at which the task takes actions, in Hz")
    parser.add_argument("--repo-id", help="what LeRobot calls it (default: xfer/OUTPUT)")
    parser.add_argument("--task", default="", help="what was to be done, in words")
    parser.add_argument("--steps", type=int, help="the first steps of each episode (default: all)")
    args = parser.parse_args()
    with h5py.File(args.dataset / "data" / "main_data.hdf5") as file:
        episodes = sorted(file, key=lambda name: int(name.removeprefix("episode_")))
        first = file[episodes[0]]
        images = {name: one for name, one in first["observations"].items() if one.ndim == 4}
        vectors = {name: one for name, one in first["observations"].items() if one.ndim == 2}
        if len(vectors) > 1:
            parser.error(f"the dataset has several vectors ({', '.join(vectors)}): LeRobot's policies see one")
        names = {name: f"observation.images.{name}" for name in images} | dict.fromkeys(vectors, "observation.state")
        features = {
            names[name]: {"dtype": "image", "shape": one.shape[1:], "names": ["height", "width", "channels"]}
            for name, one in images.items()
        }
        features |= {names[name]: _vector(one) for name, one in vectors.items()}
        features["action"] = _vector(first["actions"])
        repo = args.repo_id or f"xfer/{args.output.name}"
        made = LeRobotDataset.create(repo, fps=args.fps, features=features, root=args.output, use_videos=False)
        for name in episodes:
            episode = file[name]
            actions = episode["actions"][: args.steps]
            observations = {key: episode["observations"][one][: len(actions)] for one, key in names.items()}
            for step, action in enumerate(actions):  # Minari keeps one observation more: the last, unanswered one
                frame = {key: array[step] for key, array in observations.items()}
                made.add_frame({**frame, "action": action, "task": args.task or args.dataset.name})
            made.save_episode()
        made.finalize()
    print(f"{args.output}: {made.meta.total_episodes} episodes, {made.meta.total_frames} frames")


def _vector(array: h5py.Dataset) -> dict:
    size = array.shape[1]
    return {"dtype": "float32", "shape": (size,), "names": [str(i) for i in range(size)]}


if __name__ == "__main__":
    main()
