"""Weights, statistics and observations by name, shape and seed: what LeRobot acted on, and what is acted on again here.

Nothing of them is kept. Bytes of PCG64 are the same in every version of NumPy.
"""

import zlib

import numpy as np

STEPS, RESET, ROWS = 60, 23, 3
"""Steps of the recording, where an episode begins besides at 0, and how many robots act side by side."""


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float64 between -1 and 1."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    bits = np.frombuffer(generator.bytes(4 * int(np.prod(shape, dtype=int))), "<u4")
    return bits.reshape(shape) / 2**31 - 1


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a weight such that signals neither die out nor grow."""
    drawn = uniform(name, shape)
    if name.endswith("running_var"):
        drawn = 1 + drawn / 2
    elif "norm" in name.rpartition(".")[0].rpartition(".")[2] or ".bn" in name or "downsample.1" in name:
        drawn = (drawn / 4 + ("weight" in name)) / (2 if "backbone" in name else 1)
    elif len(shape) > 1 and "embed" not in name:
        drawn = drawn * np.sqrt(4 / np.prod(shape[1:]))
    return drawn.astype(np.float32)


def statistics(case: str, key: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return a dataset's statistics of one feature: per channel for an image."""
    shape = (shape[0], 1, 1) if len(shape) == 3 else shape
    middle = 0.5 + uniform(f"{case} {key} middle", shape) / 4
    width = 1 + uniform(f"{case} {key} width", shape) / 2
    names = {"mean": 0.0, "min": -2.0, "max": 2.0, "q01": -1.6, "q99": 1.6, "q10": -0.9, "q90": 0.9}
    found = {name: (middle + width * by).astype(np.float32) for name, by in names.items()}
    return {**found, "std": (width / 2).astype(np.float32)}


def observation(case: str, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return [STEPS, ROWS, ...]: of an image uint8 [..., H, W, 3] in patches of 4 x 4, else float32."""
    if len(shape) < 3:
        return (2 * uniform(f"{case} {key}", (STEPS, ROWS, *shape))).astype(np.float32)
    channels, height, width = shape
    coarse = uniform(f"{case} {key}", (STEPS, ROWS, height // 4, width // 4, channels))
    return ((coarse + 1) * 127.5).astype(np.uint8).repeat(4, axis=2).repeat(4, axis=3)
