"""MuJoCo's Reacher-v5: a planar arm of two links brings its fingertip to a target that only the camera sees.

The second observation is what an arm's own encoders give, joint angles (as cosine and sine) and velocities. Gymnasium's
own observation also holds the target's position and the way to it: here these must be read from the picture.

``reach:two-cameras`` has a second camera, as on a wrist: it hangs above the fingertip, turns with the forearm, and sees
the target only when that is near, but then larger.

The picture is drawn with EGL where ``MUJOCO_GL`` names nothing else (on Debian ``apt-get install libegl1
libgl1-mesa-dri``; no GPU is needed, nor a screen).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xfer.errors import UnavailableError
from xfer.spec import ActionSpec, ImageConfig, RewardScale, TensorSpec
from xfer.tasks import Task

if TYPE_CHECKING:
    import gymnasium

REQUIRES = ("gymnasium", "mujoco")
WORLDS = ("two-cameras",)

SIDE = 128
"""Side of the picture in pixels."""
FRAME = TensorSpec("frame", "uint8", (SIDE, SIDE, 3), color_order="RGB", value_range=(0, 255))
FIXED, WRIST = replace(FRAME, name="fixed"), replace(FRAME, name="wrist")
PROPRIO = TensorSpec(
    "proprio",
    "float32",
    (6,),
    ("cos shoulder", "cos elbow", "sin shoulder", "sin elbow", "shoulder velocity", "elbow velocity"),
    "1, 1, 1, 1, rad/s, rad/s",
)

CAMERA: dict[str, Any] = {
    "trackbodyid": -1,
    "distance": 0.54,
    "elevation": -90.0,
    "azimuth": 90.0,
    "lookat": np.zeros(3),
}
"""From straight above: the arm's whole reach, 0.21 m, and a little more."""
WRIST_HEIGHT = 0.25
"""Of the second camera above the fingertip, in m: it sees 0.1 m to each side of it."""

TORQUE_WEIGHT = 0.01
"""Weight of the squared torques in the reward. With Gymnasium's own, 1, random torques cost so much that doing nothing
(-12, where they return -44) looks like 80 % of an expert. So weighted, the distance is what counts, and doing nothing
returns less than random torques do."""

LINKS = (0.1, 0.11)
"""Lengths of the arm's links, the second up to the fingertip, in m (Gymnasium's reacher.xml)."""
STIFFNESS, DAMPING = 0.8, 0.1
"""The expert's gains: torque (as a share of the largest) for each rad, and for each rad/s. Gentle ones: of a grid of
gains the best returned 0.4 more, for twice the torque."""


def make(observations: Sequence[TensorSpec] = (FRAME, PROPRIO)) -> gymnasium.Env:
    """Return Reacher-v5 (50 steps at 50 Hz) seen by a camera, or two, and by the joints' encoders.

    Args:
        observations: The cameras and the joints.

    Raises:
        UnavailableError: If MuJoCo cannot draw here.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    import gymnasium

    from xfer.wrappers import Rendered

    try:
        env = gymnasium.make(
            "Reacher-v5",
            reward_control_weight=TORQUE_WEIGHT,
            render_mode="rgb_array",
            width=SIDE,
            height=SIDE,
            default_camera_config=CAMERA,
        )
        env.reset()
        env.render()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise UnavailableError(
            f"MuJoCo cannot draw with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}): apt-get install libegl1"
            " libgl1-mesa-dri, or set MUJOCO_GL=osmesa and install libosmesa6."
        ) from error
    return Rendered(env, observations, observe if FRAME in observations else observe_twice)


def observe(env: gymnasium.Env) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture, uint8 [128, 128, 3], and the joints, float32 [6]."""
    from xfer.wrappers import picture

    angles, velocities = joints(env)
    proprio = np.concatenate([np.cos(angles), np.sin(angles), velocities])
    return picture(env), proprio.astype(np.float32)


def observe_twice(env: gymnasium.Env) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the fixed camera sees, what the wrist's sees, uint8 [128, 128, 3] both, and the joints, float32 [6].

    One renderer draws both: a second one would be a second context, which the driver changes for each picture.
    """
    from xfer.wrappers import picture

    angles, _ = joints(env)
    simulator: Any = env.unwrapped
    tip, turned = simulator.get_body_com("fingertip"), np.degrees(angles.sum())
    _aim(simulator, {**CAMERA, "distance": WRIST_HEIGHT, "azimuth": CAMERA["azimuth"] + turned, "lookat": tip})
    try:
        wrist = picture(env)
    finally:
        _aim(simulator, CAMERA)
    fixed, proprio = observe(env)
    return fixed, wrist, proprio


def _aim(simulator: Any, camera: Mapping[str, Any]) -> None:
    """Let the renderer look as a camera does."""
    for name, value in camera.items():
        if name == "lookat":
            simulator.mujoco_renderer.viewer.cam.lookat[:] = value
        else:
            setattr(simulator.mujoco_renderer.viewer.cam, name, value)


def joints(env: gymnasium.Env) -> tuple[np.ndarray, np.ndarray]:
    """Return the joints' angles (rad) and velocities (rad/s), float64 [2] each."""
    simulator: Any = env.unwrapped
    return simulator.data.qpos[:2].copy(), simulator.data.qvel[:2].copy()


def inverse_kinematics(target: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return the joint angles [2] that put the fingertip on ``target`` [2] (m): of both elbow positions the nearer.

    Args:
        target: Where to; what is out of reach is reached for.
        near: The present angles.
    """
    first, second = LINKS
    distance = np.hypot(*target)
    cosine = np.clip((distance**2 - first**2 - second**2) / (2 * first * second), -1, 1)
    best = None
    for elbow in (np.arccos(cosine), -np.arccos(cosine)):
        bend = np.arctan2(second * np.sin(elbow), first + second * np.cos(elbow))
        turn = np.arctan2(target[1], target[0]) - bend - near[0]
        angles = np.array([near[0] + (turn + np.pi) % (2 * np.pi) - np.pi, elbow])
        if best is None or np.abs(angles - near).max() < np.abs(best - near).max():
            best = angles
    assert best is not None
    return best


def expert(env: gymnasium.Env) -> np.ndarray:
    """Return the torques of a PD controller that goes to where inverse kinematics says, float32 [2]."""
    simulator: Any = env.unwrapped
    angles, velocities = joints(env)
    wanted = inverse_kinematics(simulator.get_body_com("target")[:2], angles)
    torques: np.ndarray = STIFFNESS * (wanted - angles) - DAMPING * velocities
    return torques.clip(-1, 1).astype(np.float32)


TASK = Task(
    name="reach",
    control_hz=50.0,
    observations=(FRAME, PROPRIO),
    action=ActionSpec("continuous", ("shoulder", "elbow"), "200 N m", (-1.0, -1.0), (1.0, 1.0)),
    # Uniform torques, and the expert: 100 episodes each, seeds 0 to 99.
    reward=RewardScale(random_return=-10.2, reference_return=-1.64),
    image=ImageConfig(crop=(0, SIDE, 0, SIDE), shrink=2, gray=False, frames=1),
    make=make,
    expert=expert,
    expert_kind="action",
    defaults={
        "tap": "layer1",
        "head": "spatial-softmax",
        "keypoints": 32,
        "hidden": (128, 128),
        "train_from": "all",
        "learning_rate": 1e-3,
        "environments": 4,
        "rounds": 6,
        "steps": 150,
    },
)


def task(world: str) -> Task:
    """Return the task with two cameras."""
    observations = (FIXED, WRIST, PROPRIO)
    return replace(TASK, name=f"reach:{world}", observations=observations, make=lambda: make(observations))
