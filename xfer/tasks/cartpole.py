"""CartPole-v1, seen only through its rendered frames (Barto, Sutton & Anderson 1983).

The state vector never leaves the environment: an observation is the 400 x 600 RGB picture. Between two
frames the pole moves by a fraction of a pixel once the picture is shrunk, so one frame shows no velocity and
two neighboring ones hardly any: the network sees three frames, two steps apart, cropped to the band that the
cart and the pole move in and shrunk by 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task

if TYPE_CHECKING:
    import gymnasium

REQUIRES = ("gymnasium", "pygame")

FEEDBACK = np.array([1.0, 1.7, 20.0, 4.0])
"""Gains for x, x', theta, theta'. A push to the side of their weighted sum's sign keeps the pole up for 500 steps."""

SCORE_LIMIT = 3.0
"""The expert's score saturates here, far from the switching line, where its exact value does not matter."""

FRAME = TensorSpec("frame", "uint8", (400, 600, 3), color_order="RGB", value_range=(0, 255))


def make() -> gymnasium.Env:
    """Return CartPole-v1 (500 steps at most, 50 Hz) that observes its own picture."""
    import gymnasium

    from xfer.wrappers import Rendered, without_screen

    without_screen()
    return Rendered(gymnasium.make("CartPole-v1", render_mode="rgb_array"), (FRAME,))


def expert(env: gymnasium.Env) -> np.ndarray:
    """Score both actions by linear state feedback; returns 500 in every episode tried.

    Returns:
        float32 [2], [-s, s] with s in [-3, 3]: how much better a push to the right is. It is continuous on
        purpose: its sign alone flips at nearly every step, and cannot be told from pixels.
    """
    state: Any = env.unwrapped
    score = np.clip(FEEDBACK @ state.state, -SCORE_LIMIT, SCORE_LIMIT)
    return np.array([-score, score], np.float32)


TASK = Task(
    name="cartpole",
    control_hz=50.0,
    observations=(FRAME,),
    action=ActionSpec("discrete", ("left", "right")),
    reward=RewardScale(random_return=22.0, reference_return=500.0),
    image=ImageConfig(crop=(160, 320, 0, 600), shrink=4, gray=True, frames=3, frame_step=2),
    make=make,
    expert=expert,
)
