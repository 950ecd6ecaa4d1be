"""CarRacing-v3: drive a car around a track as fast as possible, seen from above (Gymnasium's Box2D environment).

The observation is the environment's own 96 x 96 picture; its lower edge shows the speed. Each part of the track that is
visited first returns 1000 divided by their number, each step costs 0.1, and after 1,000 steps it is over.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task

if TYPE_CHECKING:
    import gymnasium

REQUIRES = ("gymnasium", "Box2D", "pygame")

FRAME = TensorSpec("frame", "uint8", (96, 96, 3), color_order="RGB", value_range=(0, 255))

SPACING = 3.5
"""Distance between two points of the track's center line, in m as the simulator counts them."""
LOOK_AHEAD = 4
"""How many points ahead of the car the one lies that it steers for."""
SEE_AHEAD = 8
"""How many points ahead bends are braked for: as far as the picture shows."""
GRIP, BRAKING = 150.0, 45.0
"""Sideways acceleration that is allowed in a bend, and deceleration that is counted on before it, in m/s^2."""
FASTEST = 75.0
"""Speed on a straight, in m/s."""
STEERING, YAW_DAMPING = 2.2, 0.12
"""Steering for each rad to the point ahead, and against each rad/s of turning."""
GAS, BRAKE = 0.1, 0.05
"""Pedals for each m/s."""


def make() -> gymnasium.Env:
    """Return CarRacing-v3 with continuous actions, that observes its own picture."""
    import gymnasium

    from xfer.wrappers import observation_space, without_screen

    without_screen()
    with warnings.catch_warnings():
        # SWIG's types warn when they are first imported; where warnings are errors, that ends the process.
        warnings.simplefilter("ignore")
        import Box2D  # noqa: F401
    env = gymnasium.make("CarRacing-v3", continuous=True)
    return gymnasium.wrappers.TransformObservation(env, lambda frame: {FRAME.name: frame}, observation_space((FRAME,)))


def expert(env: gymnasium.Env) -> np.ndarray:
    """Steer for a point on the center line ahead (pure pursuit, Coulter 1992), as fast as the bends allow.

    Returns:
        float32 [3]: steering in [-1, 1] (left is negative), gas and brake in [0, 1].
    """
    world: Any = env.unwrapped
    track = np.array(world.track)[:, 1:]  # direction of travel (rad), x, y
    hull = world.car.hull
    position, speed = np.array(hull.position), float(np.hypot(*hull.linearVelocity))
    nearest = int(np.hypot(*(track[:, 1:] - position).T).argmin())
    target = track[(nearest + LOOK_AHEAD) % len(track), 1:] - position
    # The hull looks along its own y axis.
    bearing = np.arctan2(-target[0], target[1]) - hull.angle
    bearing = (bearing + np.pi) % (2 * np.pi) - np.pi
    steering = np.clip(-STEERING * bearing + YAW_DAMPING * hull.angularVelocity, -1, 1)
    excess = speed - allowed_speed(np.roll(track[:, 0], -nearest)[:SEE_AHEAD])
    gas = np.clip(-GAS * excess, 0, 1) * (1 - abs(steering))  # wheels that push have less grip left to steer with
    return np.array([steering, gas, np.clip(BRAKE * excess, 0, 1)], np.float32)


def allowed_speed(headings: np.ndarray) -> float:
    """Return the speed from which the car can still brake for every bend ahead, in m/s.

    Args:
        headings: Directions of the track at the points ahead, float [n], in rad.
    """
    turns = np.abs(np.unwrap(headings)[2:] - np.unwrap(headings)[:-2]) / (2 * SPACING)
    in_bend = GRIP / np.maximum(turns, 1e-6)  # squares of the speeds
    distances = SPACING * np.arange(len(turns))
    return float(min(FASTEST, np.sqrt((in_bend + 2 * BRAKING * distances).min())))


TASK = Task(
    name="driving",
    control_hz=50.0,
    observations=(FRAME,),
    action=ActionSpec("continuous", ("steering", "gas", "brake"), "", (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    # Uniform actions, and the expert: 50 episodes each, seeds 0 to 49.
    reward=RewardScale(random_return=-34.0, reference_return=913.9),
    image=ImageConfig(crop=(0, 96, 0, 96), shrink=2, gray=True, frames=3, frame_step=2),
    make=make,
    expert=expert,
    expert_kind="action",
    defaults={
        "tap": "layer2",
        "head": "flatten",
        "hidden": (64,),
        "train_from": "all",
        "learning_rate": 1e-3,
        # A first round that is good enough to stay on the track: half of what a worse one collects is a car that spins.
        "frames": 5000,
        "environments": 5,
        "rounds": 3,
        "steps": 500,
    },
)
