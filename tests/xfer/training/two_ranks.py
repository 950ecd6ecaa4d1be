"""What two processes do in test_distributed.py: `torchrun ... -m tests.xfer.training.two_ranks FOLDER`."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.conftest import imitation_config
from tests.xfer.training import toys
from xfer.models.config import PolicyConfig
from xfer.models.contract import make_spec
from xfer.models.policy import Policy
from xfer.training import distributed, imitation

FRAMES = 24


def signs():
    """A task with an expert, for `xfer train`."""
    return replace(toys.signs(), expert=lambda env: np.eye(2, dtype=np.float32)[env.unwrapped.right])


def joint_frames():
    """Frames of which each rank has every second."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(FRAMES, 3, toys.SIZE, toys.SIZE, generator=draw), torch.rand(FRAMES, 2, generator=draw)


def fitted(seen, expert, train_from, start=0.0, memory=0):
    """Return a policy after a few steps, each on all frames; to a memory they are one episode."""
    torch.manual_seed(0)
    task = toys.signs()
    spec = make_spec(task, task.image, "values", memory)
    network = PolicyConfig(
        "resnet18", "layer1", "flatten", 8, task.image, memory="gru" if memory else "none", memory_size=memory or 64
    )
    policy = Policy(network, spec)
    policy.head[-1].bias.data += start
    changes = {"optimizer": "sgd", "learning_rate": 0.01, "unroll": len(seen)}
    config = imitation_config(train_from=train_from, steps=4, batch_size=len(seen), **changes)
    features = imitation.compute_features(policy.split(train_from)[0], seen, "cpu")
    for _ in imitation.fit(policy, features, expert, config, 0, "cpu", episodes=[torch.arange(len(seen))]):
        pass
    return policy


def main(folder):
    with distributed.group("cpu"):
        assert distributed.size() == 2
        rank = distributed.rank()
        seen, expert = (part[rank::2] for part in joint_frames())
        for train_from in ("head", "layer1"):
            # They begin with different weights, and both must go on from rank 0's.
            policy = fitted(seen, expert, train_from, start=float(rank))
            save_file(policy.state_dict(), folder / f"{train_from}-{rank}.safetensors")
        policy = fitted(seen, expert, "head", start=float(rank), memory=8)
        save_file(policy.state_dict(), folder / f"memory-{rank}.safetensors")
        measured = distributed.mean({"loss": 1.0 + rank, "other": -2.0 * rank})
        assert measured == {"loss": 1.5, "other": -1.0}, measured
        assert distributed.from_first(f"of {rank}") == "of 0"
        print(f"rank {rank} speaks")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
