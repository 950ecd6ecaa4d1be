"""What a policy's cameras saw, as one picture: for videos and reports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xfer.spec import PolicySpec, TensorSpec


def cameras(spec: PolicySpec) -> tuple[TensorSpec, ...]:
    """Return the observations that can be shown."""
    return tuple(o for o in spec.observations if o.is_image or (o.dtype == "uint8" and len(o.shape) == 2))


def side_by_side(observations: Mapping[str, np.ndarray], spec: PolicySpec) -> np.ndarray:
    """Return what all cameras gave, in the spec's order from left to right; below a lower one it is black.

    Args:
        observations: At least those that can be shown, without a batch dimension (or of one row).
        spec: Has one that can be shown.

    Returns:
        uint8 [H, W, 3] in RGB; [H, W] of a gray camera alone.
    """
    shown = cameras(spec)
    frames = [_rgb(observations[camera.name].reshape(camera.shape), camera) for camera in shown]
    if len(frames) == 1:
        return frames[0] if shown[0].shape[2:] == (3,) else frames[0][..., 0]
    height = max(len(frame) for frame in frames)
    return np.hstack([np.pad(frame, ((0, height - len(frame)), (0, 0), (0, 0))) for frame in frames])


def _rgb(frame: np.ndarray, camera: TensorSpec) -> np.ndarray:
    if camera.color_order == "BGR":
        return frame[..., ::-1]
    return np.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2) if frame.shape[2:] in ((), (1,)) else frame
