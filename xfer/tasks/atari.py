"""Atari 2600 games (Bellemare et al. 2013), played as Machado et al. 2018 (arXiv:1709.06009) ask: sticky, whole games.

An action is repeated for four frames; at each of them the emulator takes the one before again with probability 0.25.
Losing a life does not end an episode. Some games draw an object in every second frame only, so an observation is the
maximum of the last two (Mnih et al. 2015). There is no expert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task

if TYPE_CHECKING:
    import gymnasium

REQUIRES = ("gymnasium", "ale_py")

FRAME_SKIP = 4
STICKY = 0.25
FRAME = TensorSpec("frame", "uint8", (210, 160, 3), color_order="RGB", value_range=(0, 255))


class Game(NamedTuple):
    """A game: Gymnasium's name, its actions, and mean returns of random actions and of a person."""

    env_id: str
    actions: tuple[str, ...]
    random_return: float
    human_return: float


GAMES = {
    "breakout": Game("ALE/Breakout-v5", ("noop", "fire", "right", "left"), 1.5, 31.8),
    "pong": Game("ALE/Pong-v5", ("noop", "fire", "right", "left", "right fire", "left fire"), -20.2, 9.3),
}
"""Random returns were measured over 40 episodes each, seeds 0 to 39; a person's are those in Mnih et al. 2015."""
WORLDS = tuple(GAMES)


def make(env_id: str) -> gymnasium.Env:
    """Return the game at 15 actions a second, that observes its picture."""
    import ale_py
    import gymnasium
    from gymnasium.wrappers import MaxAndSkipObservation

    from xfer.wrappers import observation_space

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # it greets each environment otherwise
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(env_id, frameskip=1, repeat_action_probability=STICKY)
    seen = MaxAndSkipObservation(env, skip=FRAME_SKIP)
    return gymnasium.wrappers.TransformObservation(seen, lambda frame: {FRAME.name: frame}, observation_space((FRAME,)))


def task(world: str) -> Task:
    """Return the task of one game."""
    env_id, actions, random_return, human_return = GAMES[world]
    return Task(
        name=f"atari:{world}",
        control_hz=60 / FRAME_SKIP,
        observations=(FRAME,),
        action=ActionSpec("discrete", actions),
        reward=RewardScale(random_return, human_return),
        image=ImageConfig(crop=(0, 210, 0, 160), shrink=2),
        make=lambda: make(env_id),
    )
