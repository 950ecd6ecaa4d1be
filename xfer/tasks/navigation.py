"""MiniGrid, seen as a map from above (Chevalier-Boisvert et al. 2023, arXiv:2306.13831): find the way to the goal.

A ladder of worlds, from an empty room to one with a locked door. All of them give the same frame (tiles of 8 pixels,
the world in the middle of the largest world's canvas, walls around it) and take the same five actions, so a policy
moves from one to another. One frame shows everything, a key that is carried, too: it is missing from the map.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task

if TYPE_CHECKING:
    import gymnasium

REQUIRES = ("gymnasium", "minigrid")

TILE = 8
"""Side of a tile in pixels."""
CANVAS = 19
"""Side of the largest world (FourRooms) in tiles."""
WALL_GRAY = 100
"""MiniGrid's walls; what lies around a smaller world is one."""

ACTIONS = {"left": 0, "right": 1, "forward": 2, "pickup": 3, "toggle": 5}
"""The actions that these worlds need, and MiniGrid's numbers of them."""
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Where a step forward leads, for each of MiniGrid's four directions."""

FRAME = TensorSpec("frame", "uint8", (CANVAS * TILE, CANVAS * TILE, 3), color_order="RGB", value_range=(0, 255))


class World(NamedTuple):
    """One world: Gymnasium's name, the side in tiles, mean returns of random actions and of the expert."""

    env_id: str
    size: int
    random_return: float
    expert_return: float


LADDER = {
    "empty": World("MiniGrid-Empty-8x8-v0", 8, 0.163, 0.961),
    "crossing-n1": World("MiniGrid-SimpleCrossingS9N1-v0", 9, 0.064, 0.961),
    "crossing-n2": World("MiniGrid-SimpleCrossingS9N2-v0", 9, 0.026, 0.955),
    "crossing-n3": World("MiniGrid-SimpleCrossingS9N3-v0", 9, 0.020, 0.954),
    "fourrooms": World("MiniGrid-FourRooms-v0", 19, 0.022, 0.860),
    "doorkey": World("MiniGrid-DoorKey-8x8-v0", 8, 0.053, 0.977),
}
"""Returns were measured over 200 episodes each, seeds 0 to 199, random actions drawn uniformly from the five."""
WORLDS = tuple(LADDER)


def make(env_id: str) -> gymnasium.Env:
    """Return one of MiniGrid's worlds, with the five actions, that observes its map."""
    import gymnasium
    import minigrid  # noqa: F401 - it registers its environments

    from xfer.wrappers import Rendered

    numbers = tuple(ACTIONS.values())
    env: gymnasium.Env[Any, Any] = gymnasium.make(env_id)
    few = gymnasium.wrappers.TransformAction(env, numbers.__getitem__, gymnasium.spaces.Discrete(len(numbers)))
    return Rendered(few, (FRAME,), lambda inner: [draw(inner)])


def draw(env: gymnasium.Env) -> np.ndarray:
    """Return the whole map, uint8 [152, 152, 3], without the highlight of what the agent would see."""
    world: Any = env.unwrapped
    map_ = world.grid.render(TILE, world.agent_pos, world.agent_dir)
    frame = np.full(FRAME.shape, WALL_GRAY, np.uint8)
    top = left = margin(world.width)
    frame[top : top + len(map_), left : left + map_.shape[1]] = map_
    return frame


def margin(size: int) -> int:
    """Return where a world of ``size`` tiles begins on the canvas, in pixels."""
    return (CANVAS - size) // 2 * TILE


def image(size: int) -> ImageConfig:
    """Return the middle of the canvas that holds the world: 9 x 9 tiles, or all 19 x 19, at 4 pixels a tile."""
    first = margin(9) if size <= 9 else 0
    last = FRAME.shape[0] - first
    return ImageConfig(crop=(first, last, first, last), shrink=2, gray=False, frames=1)


class State(NamedTuple):
    """What changes when the agent acts: where it is, where it looks, and how far it is with the key and the door."""

    x: int
    y: int
    direction: int
    carrying: bool
    open: bool


def expert(env: gymnasium.Env) -> np.ndarray:
    """Return every first action of a shortest way to the goal, with equal probability.

    A breadth-first search over position, direction, key and door. Each state remembers, as a set of bits, with which
    first actions it is reached soonest.

    Returns:
        float32 [5], probabilities.
    """
    world: Any = env.unwrapped
    cells = {(x, y): world.grid.get(x, y) for x in range(world.width) for y in range(world.height)}
    kinds = {position: cell.type for position, cell in cells.items() if cell is not None}
    door_open = any(cell.is_open for cell in cells.values() if cell is not None and cell.type == "door")
    x, y = world.agent_pos
    start = State(int(x), int(y), int(world.agent_dir), world.carrying is not None, door_open)
    depths, firsts, waiting = {start: 0}, {start: 0}, deque([start])
    goal_depth, best = len(ACTIONS) * len(cells) * 16, 0
    while waiting:
        state = waiting.popleft()
        depth = depths[state]
        if depth > goal_depth:
            break
        if kinds.get((state.x, state.y)) == "goal":
            goal_depth, best = depth, best | firsts[state]
            continue
        for index, action in enumerate(ACTIONS):
            after = move(state, action, kinds)
            if after not in depths:
                depths[after], firsts[after] = depth + 1, 0
                waiting.append(after)
            if depths[after] == depth + 1:
                firsts[after] |= firsts[state] or 1 << index
    optimal = np.array([best >> index & 1 for index in range(len(ACTIONS))], np.float32)
    optimal /= optimal.sum()
    return optimal


def move(state: State, action: str, kinds: dict[tuple[int, int], str]) -> State:
    """Return the state after an action, as MiniGrid has it, in a world with one key and one door at most.

    Args:
        state: The state before.
        action: A key of ``ACTIONS``.
        kinds: Types of the cells that are not empty. The key's is there as long as it is not carried.
    """
    if action == "left":
        return state._replace(direction=(state.direction - 1) % 4)
    if action == "right":
        return state._replace(direction=(state.direction + 1) % 4)
    dx, dy = STEPS[state.direction]
    ahead = (state.x + dx, state.y + dy)
    kind = kinds.get(ahead)
    key_here = kind == "key" and not state.carrying
    if action == "pickup":
        return state._replace(carrying=True) if key_here else state
    if action == "toggle":
        return state._replace(open=not state.open) if kind == "door" and (state.carrying or state.open) else state
    blocked = kind == "wall" or key_here or (kind == "door" and not state.open)
    return state if blocked else state._replace(x=ahead[0], y=ahead[1])


def task(world: str) -> Task:
    """Return the task of one world."""
    env_id, size, random_return, expert_return = LADDER[world]
    return Task(
        name=f"navigation:{world}",
        control_hz=10.0,
        observations=(FRAME,),
        action=ActionSpec("discrete", tuple(ACTIONS)),
        reward=RewardScale(random_return, expert_return),
        image=image(size),
        make=lambda: make(env_id),
        expert=expert,
        expert_kind="probabilities",
        defaults={
            "loss": "cross-entropy",
            "tap": "layer2",
            "head": "flatten",
            "train_from": "all",
            "learning_rate": 1e-3,
            "environments": 4,
            "rounds": 8,
            "steps": 150,
            "ppo": {
                "tap": "layer1",  # still one cell a tile
                "train_from": "head",
                "total_frames": 150_000,
                "rounds": 30,
                "update_epochs": 8,
                "learning_rate": 1e-4,
            },
        },
        success=0.05,  # reaching the goal returns 0.1 at least, anything else 0
        circles=True,
    )
