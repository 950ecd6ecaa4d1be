"""Frames per second of PPO against Stable-Baselines3's on the same network, environments, epochs and batches.

Both sides stand in this process, with as many threads, and take turns: a rollout and an update each, with alternating
first. What is compared is the ratio of neighboring turns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.claims import Options, Outcome
from xfer.errors import UnavailableError

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

    from xfer.tasks import Task
    from xfer.training.config import PPOConfig
    from xfer.training.ppo import Trainer

BACKBONE, TAP, SIDE, TURNS = "resnet18", "layer4", 84, 3
MIN_RATIOS = {"head": 5.0, "layer4": 1.7, "all": 1.0}
"""Where the freeze line is, and how many times Stable-Baselines3's frames per second are claimed."""
MAX_LOSS = 0.05
"""What may be lacking where nothing is frozen: both then do the same arithmetic."""
CLAIM = (
    "PPO collects and learns at least 5 times as many frames per second as Stable-Baselines3's with the whole trunk"
    f" frozen, 1.7 times with the line below layer4, and no fewer (within {MAX_LOSS:.0%}) with nothing frozen:"
    " ResNet-18, 84 x 84 FourRooms, 8 environments, 10 epochs."
)


def reproduce(options: Options) -> Outcome:
    """Measure in interleaved turns.

    Raises:
        UnavailableError: If Stable-Baselines3 or MiniGrid is missing.
    """
    import importlib.util

    for needed in ("stable_baselines3", "minigrid"):
        if not importlib.util.find_spec(needed):
            raise UnavailableError(f"training-speed needs {needed}: pip install 'xfer-policy[dev,navigation]'")
    import torch

    from xfer.models.torch_session import set_threads

    if options.threads:
        set_threads(options.threads)
    turns = options.runs or TURNS
    rows = [compare(line, turns, options.seed) for line in MIN_RATIOS]
    notes = (
        f"Threads of PyTorch: {torch.get_num_threads()}; turns of each side: {turns}, after one to warm up.",
        "Batch norm is in eval mode on both sides; weights were equal when the outputs were compared.",
    )
    return Outcome(tuple(rows), notes)


def compare(line: str, turns: int, seed: int) -> dict[str, Any]:
    """Measure both sides with the freeze line at one place."""
    config = settings(line, seed)
    with sides(config) as (ours, theirs):
        difference = _difference(ours, theirs)
        assert theirs.parameters == _parameters(ours)
        generator = _generator(seed)
        _turn(ours, generator), theirs.turn()  # warm-up
        own: list[tuple[float, float]] = []
        other: list[tuple[float, float]] = []
        for index in range(turns):
            if index % 2:
                other.append(theirs.turn())
            own.append(_turn(ours, generator))
            if not index % 2:
                other.append(theirs.turn())
    ratios = [sum(b) / sum(a) for a, b in zip(own, other, strict=True)]
    rate = {
        f"{side}_{part}": config.batch / median(pick(turn) for turn in taken)
        for side, taken in (("xfer", own), ("sb3", other))
        for part, pick in (("collect", _first), ("update", _second), ("frames_s", sum))
    }
    return {
        "train_from": line,
        "parameters": _parameters(ours)[0],
        "trained": _parameters(ours)[1],
        "largest_difference": difference,
        **rate,
        "ratio": median(ratios),
        "ratios": (min(ratios), max(ratios)),
        "wanted": MIN_RATIOS[line],
        "holds": median(ratios) >= MIN_RATIOS[line] - (MAX_LOSS if line == "all" else 0) and difference < 1e-4,
    }


def settings(line: str, seed: int) -> PPOConfig:
    """Return the settings of both sides; Stable-Baselines3's own defaults, but for the smaller rollout."""
    from xfer.training.config import PPOConfig

    return PPOConfig(
        total_frames=10**6,
        rounds=1,
        environments=8,
        rollout_steps=32,
        update_epochs=10,
        num_minibatches=4,
        learning_rate=3e-4,
        anneal_lr=False,
        gamma=0.99,
        gae_lambda=0.95,
        clip_coef=0.2,
        norm_adv=True,
        clip_vloss=False,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        target_kl=0.0,
        reward_scale=1.0,
        train_from=line,
        amp="off",
        compile=False,
        seed=seed,
    )


@contextmanager
def sides(config: PPOConfig) -> Iterator[tuple[Trainer, Any]]:
    """Yield our trainer and Stable-Baselines3's with the same weights, each with environments of its own."""
    import torch

    from benchmarks.claims._stable_baselines import Opponent
    from xfer.models.config import PolicyConfig
    from xfer.models.contract import make_spec
    from xfer.models.policy import Policy
    from xfer.training.ppo import Trainer, initialize
    from xfer.training.vector_env import vector_env

    task = fourrooms()
    torch.manual_seed(config.seed)
    policy = Policy(PolicyConfig(BACKBONE, TAP, "average", 0, task.image), make_spec(task, task.image, "logits"))
    policy.eval()
    initialize(policy.readout, 0.01)
    stages = [name for name, _ in policy.trunk.named_children()]
    frozen = {"head": stages, "all": []}.get(config.train_from, stages[: stages.index(TAP)])
    with vector_env(task, config.environments, "async") as envs:
        ours = Trainer(policy, envs, config, "cpu")
        theirs = Opponent(task.make, config, BACKBONE, TAP, frozen)
        try:
            theirs.take_weights(ours.agent, policy.trunk)
            ours.collector.reset(list(range(config.environments)))
            yield ours, theirs
        finally:
            theirs.close()


def fourrooms() -> Task:
    """Return FourRooms as a picture of 84 x 84 pixels, which both networks see whole."""
    from xfer import tasks
    from xfer.spec import ImageConfig, TensorSpec

    frame = TensorSpec("frame", "uint8", (SIDE, SIDE, 3), color_order="RGB", value_range=(0, 255))
    image = ImageConfig(crop=(0, SIDE, 0, SIDE), gray=False, frames=1)
    task = tasks.load("navigation:fourrooms")
    return replace(task, name="fourrooms-84", observations=(frame,), image=image, make=make)


def make() -> gymnasium.Env[Any, Any]:
    """Return FourRooms with the map as its observation."""
    import gymnasium
    import minigrid  # noqa: F401 - it registers its environments

    from xfer.wrappers import Rendered

    env: gymnasium.Env[Any, Any] = gymnasium.make("MiniGrid-FourRooms-v0")
    numbers = (0, 1, 2, 3, 5)
    few = gymnasium.wrappers.TransformAction(env, numbers.__getitem__, gymnasium.spaces.Discrete(len(numbers)))
    return Rendered(few, fourrooms().observations, lambda inner: [draw(inner)])


def draw(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """Return the map at 4 pixels a tile, in the middle: uint8 [84, 84, 3]."""
    import numpy as np

    world: Any = env.unwrapped
    seen = world.grid.render(4, world.agent_pos, world.agent_dir)
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    margin = (SIDE - len(seen)) // 2
    frame[margin : margin + len(seen), margin : margin + len(seen)] = seen
    return frame


def _generator(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(seed)


def _turn(ours: Trainer, generator: Any) -> tuple[float, float]:
    from xfer.training.ppo import update

    start = time.perf_counter()
    rollout = ours.collector.collect(generator)
    collected = time.perf_counter()
    update(ours.agent, ours.predict, rollout, ours.optimizer, ours.scaler, ours.config, generator)
    return collected - start, time.perf_counter() - collected


def _parameters(ours: Trainer) -> tuple[int, int]:
    every = {id(p): p for p in ours.agent.parameters()}.values()
    return sum(math.prod(p.shape) for p in every), sum(math.prod(p.shape) for p in every if p.requires_grad)


def _difference(ours: Trainer, theirs: Any) -> float:
    """Return by how much scores (as log-probabilities) and values of the same frames differ at most."""
    import numpy as np
    import torch

    policy, agent = ours.policy, ours.agent
    env = make()
    frames = np.stack([env.reset(seed=seed)[0]["frame"] for seed in range(16)])
    env.close()
    with torch.no_grad():
        seen, _ = policy.see({"frame": torch.from_numpy(frames)}, torch.zeros(16, *policy.history_shape))
        scores, values = agent(agent.frozen(seen), torch.zeros(16, 0))
        other_scores, other_values = theirs.outputs(frames)
        differences = (scores.log_softmax(1) - other_scores, values - other_values)
    return max(float(difference.abs().max()) for difference in differences)


def _first(turn: tuple[float, float]) -> float:
    return turn[0]


def _second(turn: tuple[float, float]) -> float:
    return turn[1]
