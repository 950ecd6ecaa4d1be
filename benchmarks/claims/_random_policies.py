"""Random policies of the kinds that people deploy, with observations: what `xfer reproduce verifier` exports."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from export import Deployable
from xfer.models.contract import to_action
from xfer.runner import Arrays
from xfer.spec import ActionSpec, PolicySpec, ScoreKind, TensorSpec
from xfer.trajectories import Trajectories

FORBIDDEN = -1e8
"""The score of an action that the mask does not allow."""
EPISODE_STEPS = (100, 250)
RARE = 0.005
"""Share of the steps at which a state is large, of the policies that meet such states."""
LARGE = 30.0
"""How many times as large."""
SIDE = 16
"""Height and width of images, in pixels."""


@dataclass(frozen=True)
class RandomPolicy:
    """A policy, and what it meets.

    Attributes:
        kind: A few words.
        deployable: Module and spec.
        meets_large: Whether its states are now and then ``LARGE`` times as large.
    """

    kind: str
    deployable: Deployable
    meets_large: bool = False

    @property
    def spec(self) -> PolicySpec:
        """The contract."""
        return self.deployable.spec


class RandomNet(nn.Module):
    """A network of random size and weights, of whatever parts its spec needs.

    Args:
        spec: Its contract: images are seen through convolutions, ``mask`` masks scores, a state is a GRU's.
        rng: Gives sizes and weights.
        units: What each score is multiplied by.
    """

    units: Tensor

    def __init__(self, spec: PolicySpec, rng: np.random.Generator, units: np.ndarray) -> None:
        super().__init__()
        self.spec = spec
        hidden, layers = int(rng.integers(16, 65)), int(rng.integers(1, 4))
        self.eye: nn.Module | None = None
        width = 0
        for tensor in spec.observations:
            if tensor.dtype == "uint8":
                channels = int(rng.integers(4, 9))
                first = nn.Conv2d(tensor.shape[2], channels, 3, stride=2)
                self.eye = nn.Sequential(first, nn.ReLU(), nn.Conv2d(channels, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
                width += 8 * 3 * 3
            elif tensor.name != "mask":
                width += tensor.shape[0]
        body: list[nn.Module] = []
        activation = nn.ReLU if spec.score_kind == "values" else nn.Tanh
        for _ in range(layers):
            body += [nn.Linear(width, hidden), activation()]
            width = hidden
        self.body = nn.Sequential(*body)
        self.memory = nn.GRUCell(width, spec.states[0].shape[0]) if spec.states else None
        self.readout = nn.Linear(spec.states[0].shape[0] if spec.states else width, len(spec.action.elements))
        self.register_buffer("units", torch.from_numpy(units.astype(np.float32)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        with torch.no_grad():
            for weight in self.parameters():
                spread = 1.5 / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 0.1
                weight.normal_(0, spread, generator=generator)
            for weight in self.readout.parameters():
                weight.mul_(self.units.reshape(-1, *[1] * (weight.ndim - 1)))
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the action, its scores and the next state, if there is one."""
        seen = dict(zip((tensor.name for tensor in self.spec.inputs), inputs, strict=True))
        mask, state = seen.pop("mask", None), seen.pop("memory", None)
        parts = []
        for observation in seen.values():
            if self.eye is not None and observation.ndim == 4:
                parts.append(self.eye(observation.permute(0, 3, 1, 2).float() / 128 - 1))
            else:
                parts.append(observation)
        features = self.body(torch.cat(parts, dim=1))
        states: list[Tensor] = []
        if self.memory is not None:
            features = self.memory(features, state)
            states.append(features)
        scores = self.readout(features)
        if mask is not None:
            scores = torch.where(mask > 0.5, scores, FORBIDDEN)
        return to_action(scores, self.spec), scores, *states


def _vector(rng: np.random.Generator) -> TensorSpec:
    return TensorSpec("joints", "float32", (int(rng.integers(4, 13)),))


def _image(rng: np.random.Generator) -> TensorSpec:
    return TensorSpec("frame", "uint8", (SIDE, SIDE, 3), color_order="RGB")


def _discrete(
    *observed: Callable[[np.random.Generator], TensorSpec],
    masked: bool = False,
    memory: bool = False,
    kind: ScoreKind = "logits",
) -> Callable[[np.random.Generator], Deployable]:
    def make(rng: np.random.Generator) -> Deployable:
        actions = int(rng.integers(3, 7))
        observations = [draw(rng) for draw in observed]
        if masked:
            observations.append(TensorSpec("mask", "float32", (actions,)))
        action = ActionSpec("discrete", tuple(f"action {number}" for number in range(actions)))
        spec = PolicySpec("", 50.0, tuple(observations), _states(rng, memory), action, kind)
        return Deployable(RandomNet(spec, rng, np.full(actions, 2.0)), spec)

    return make


def _continuous(
    *observed: Callable[[np.random.Generator], TensorSpec],
    bounded: bool = True,
    memory: bool = False,
    units: tuple[float, float] = (-1.0, 0.0),
) -> Callable[[np.random.Generator], Deployable]:
    """Return what makes a policy of joints of unlike scale; ``units`` are the decimal logarithms of its scores."""

    def make(rng: np.random.Generator) -> Deployable:
        elements = int(rng.integers(2, 6))
        observations = tuple(draw(rng) for draw in observed)
        reach = tuple((10 ** rng.uniform(-2, 2, elements)).tolist()) if bounded else ()
        low = tuple(-bound for bound in reach)
        action = ActionSpec("continuous", tuple(f"joint {number}" for number in range(elements)), "", low, reach)
        spec = PolicySpec("", 50.0, observations, _states(rng, memory), action, "mean")
        return Deployable(RandomNet(spec, rng, 10 ** rng.uniform(*units, elements)), spec)

    return make


def _states(rng: np.random.Generator, memory: bool) -> tuple[TensorSpec, ...]:
    return (TensorSpec("memory", "float32", (int(rng.integers(8, 25)),)),) if memory else ()


KINDS: dict[str, Callable[[np.random.Generator], Deployable]] = {
    "MLP": _discrete(_vector),
    "continuous, unlike scales": _continuous(_vector),
    "GRU": _discrete(_vector, memory=True),
    "masked": _discrete(_vector, masked=True),
    "CNN": _discrete(_image),
    "continuous GRU": _continuous(_vector, memory=True),
    "values, rare large states": _discrete(_vector, kind="values"),
    "continuous, no bounds": _continuous(_vector, bounded=False, units=(-2, 2)),
    "image and vector": _discrete(_image, _vector),
    "continuous, wide bounds": _continuous(_vector, units=(-2.5, -1.5)),
}


def make(seed: int, index: int) -> RandomPolicy:
    """Return random policy number ``index``; the kinds take turns."""
    kind = list(KINDS)[index % len(KINDS)]
    deployable = KINDS[kind](np.random.default_rng((seed, index)))
    return RandomPolicy(kind, deployable, meets_large=deployable.spec.score_kind == "values")


def walk(policy: RandomPolicy, seed: tuple[int, ...], steps: int) -> Trajectories:
    """Return ``steps`` observations: smooth random walks, in episodes of ``EPISODE_STEPS`` steps."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(*EPISODE_STEPS, steps // EPISODE_STEPS[0] + 1)
    since = np.concatenate([np.arange(length) for length in lengths])[:steps]
    resets = since == 0
    observations = {}
    for tensor in policy.spec.observations:
        if tensor.name == "mask":
            observations["mask"] = _masks(rng, steps, tensor.shape[0])
        elif tensor.dtype == "uint8":
            observations[tensor.name] = _frames(rng, since, tensor.shape)
        else:
            values = _smooth(rng, resets, tensor.shape[0])
            if policy.meets_large:
                values[rng.random(steps) < RARE] *= LARGE
            values[:, -1] = since / 100 - 1  # as a battery or a clock goes
            observations[tensor.name] = values
    return Trajectories(observations, resets)


def steps_of(observations: Arrays) -> np.ndarray:
    """Return at which step of its episode each row of some observations [B, ...] is, as ``walk`` made them: [B]."""
    if "joints" in observations:
        return np.asarray(np.rint((observations["joints"][:, -1] + 1) * 100))
    return observations["frame"][:, 0, 0, 0].astype(float)


def _smooth(rng: np.random.Generator, resets: np.ndarray, width: int, keep: float = 0.95) -> np.ndarray:
    """Return a random walk that is drawn back to zero, of spread 1: float32 [T, width]."""
    noise = rng.normal(size=(len(resets), width))
    values = np.empty_like(noise)
    for t, begins in enumerate(resets):
        values[t] = noise[t] if begins else keep * values[t - 1] + math.sqrt(1 - keep**2) * noise[t]
    return values.astype(np.float32)


def _masks(rng: np.random.Generator, steps: int, width: int) -> np.ndarray:
    """Return what is allowed, which changes every few steps; one action always is: float32 [T, width]."""
    masks = rng.random((steps // 5 + 1, width)) < 0.6
    masks[np.arange(len(masks)), rng.integers(width, size=len(masks))] = True
    return masks.repeat(5, axis=0)[:steps].astype(np.float32)


def _frames(rng: np.random.Generator, since: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return pictures in which a few patches change their brightness: uint8 [T, H, W, C]; a corner tells the step."""
    height, width, channels = shape
    coarse = _smooth(rng, since == 0, 4 * 4 * channels).reshape(-1, 4, 4, channels)
    frames = 128 + 50 * coarse.repeat(height // 4, axis=1).repeat(width // 4, axis=2)
    frames += rng.normal(scale=4, size=frames.shape)
    frames = frames.clip(0, 255).astype(np.uint8)
    frames[:, 0, 0, 0] = since
    return frames
