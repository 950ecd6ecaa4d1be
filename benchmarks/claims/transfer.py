"""Frames of a structured world that a policy needs which has learned simpler ones, against training from scratch.

Scratch gets a fair chance: the better of a random frozen trunk and of training all layers, with the learning rate tuned
for *it*, on a seed that the comparison does not use. Every run is an ordinary run folder, so an interrupted comparison
continues where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.claims import Options, Outcome, _learning_curves, cell
from benchmarks.claims._learning_curves import Curve
from xfer.errors import UsageError

SHOWS_PROGRESS = True
SUCCESS, SEEDS, TUNING_SEED = 0.9, 3, 100
MIN_RATIO, BUDGET_RATIO = 2.0, 3


@dataclass(frozen=True)
class Protocol:
    """What is trained, and for how long.

    Attributes:
        simpler: The source's worlds, one after the other.
        source_rounds: Rounds in each of them, at most.
        source_frames: Frames of such a round.
        source_steps: Gradient steps of such a round; everything else is the task's own default.
        target: What both sides then learn.
        frames: Frames of a round there; each round ends with an evaluation.
        steps: Gradient steps of a round there.
        rounds: Rounds at most, for transfer; scratch has ``BUDGET_RATIO`` times as many.
        learning_rate: Of transfer, which trains all layers; the better of 1e-3 and 3e-4 with the seed for tuning.
        scratch: Ways to train from scratch (``--train-from``), each with the learning rates that are tried.
        tuning_rounds: Rounds in which they are tried.
        episodes: Episodes of an evaluation.
    """

    simpler: tuple[str, ...] = ("navigation:crossing-n1", "navigation:crossing-n2")
    source_rounds: int = 6
    source_frames: int = 1000
    source_steps: int = 150
    target: str = "navigation:crossing-n3"
    frames: int = 500
    steps: int = 150
    rounds: int = 6
    learning_rate: float = 3e-4
    scratch: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: {"head": (1e-3, 1e-2, 3e-2), "all": (3e-4, 1e-3, 3e-3, 1e-2)}
    )
    tuning_rounds: int = 6
    episodes: int = 100


PROTOCOL = Protocol()
CLAIM = (
    f"From a policy that has learned {' and '.join(PROTOCOL.simpler)}, {PROTOCOL.target} reaches {SUCCESS:.0%} success,"
    f" held over two consecutive evaluations of {PROTOCOL.episodes} episodes on seeds kept out, with at most"
    f" 1/{MIN_RATIO:g} of the target frames that the better scratch needs (median of {SEEDS} seeds)."
)


def reproduce(options: Options) -> Outcome:
    """Train what is not trained yet, and compare.

    Raises:
        UsageError: If ``--runs`` does not fit.
    """
    from xfer.models.torch_session import set_threads

    if options.runs > TUNING_SEED:
        raise UsageError(f"--runs {options.runs}: {TUNING_SEED} seeds at most.")
    if options.threads:
        set_threads(options.threads)
    return compare(PROTOCOL, options.folder, options.seed, options.runs or SEEDS)


def compare(protocol: Protocol, folder: Path, first_seed: int, seeds: int) -> Outcome:
    """Train both sides with every seed, draw their curves, and return who needed how many frames."""
    tried = try_scratch(protocol, folder, first_seed + TUNING_SEED)
    way, learning_rate = min(tried, key=lambda one: rank(tried[one]))
    options = {"train_from": way, "learning_rate": learning_rate}
    sources, transfers, scratches = [], [], []
    for seed in range(first_seed, first_seed + seeds):
        weights, cost = learn_simpler(protocol, folder, seed)
        sources.append(cost)
        path = folder / f"transfer-{seed}"
        own = {"train_from": "all", "learning_rate": protocol.learning_rate}
        transfers.append(learn_target(protocol, path, "from simpler worlds", seed, protocol.rounds, weights, **own))
        path, rounds = folder / f"scratch-{seed}", BUDGET_RATIO * protocol.rounds
        scratches.append(learn_target(protocol, path, "from scratch", seed, rounds, "none", **options))
    row = judge(transfers, scratches, BUDGET_RATIO * protocol.rounds * protocol.frames)
    row = {
        "seeds": seeds,
        "source_frames": tuple(source.frames[-1] for source in sources),
        "source_seconds": tuple(round(source.seconds) for source in sources),
        "success_before": tuple(curve.success[0] for curve in transfers),
        **row,
    }
    notes = (
        f"Frames until {SUCCESS:.0%} was there and stayed in the next evaluation, {protocol.frames} frames and"
        f" {protocol.steps} gradient steps a round on both sides; None: not within {protocol.rounds} rounds (transfer)"
        f" or {BUDGET_RATIO * protocol.rounds} (scratch). Ratio: scratch's median by transfer's.",
        "Seconds are wall-clock, evaluations included; the source's frames and seconds are those of all its worlds.",
        f"Scratch: {describe((way, learning_rate))}, the best of {len(tried)} tried with seed"
        f" {first_seed + TUNING_SEED} for {protocol.tuning_rounds} rounds; success in the last two:"
        f" {'; '.join(f'{describe(one)} {fmean(curve.success[-2:]):.0%}' for one, curve in tried.items())}.",
        f"Transfer: all layers, learning rate {protocol.learning_rate:g}. Its source is no part of its frames.",
        _learning_curves.where(folder),
    )
    curves, shown = [*transfers, *scratches], {key.replace("_", " "): cell(value) for key, value in row.items()}
    _learning_curves.write(folder, curves, SUCCESS, CLAIM, shown, notes)
    return Outcome((row,), notes)


def try_scratch(protocol: Protocol, folder: Path, seed: int) -> dict[tuple[str, float], Curve]:
    """Train from scratch in each way, with each learning rate, for a few rounds."""
    tried = {}
    for way, rates in protocol.scratch.items():
        for rate in rates:
            options: dict[str, Any] = {"train_from": way, "learning_rate": rate}
            path, label = folder / f"tuning-{way}-{rate:g}", f"tuning {describe((way, rate))}"
            tried[way, rate] = learn_target(protocol, path, label, seed, protocol.tuning_rounds, "none", **options)
    return tried


def rank(curve: Curve) -> tuple[float, float]:
    """Return what is smaller for the better curve: frames until success, then how much of it is missing at the end."""
    return (curve.reached(SUCCESS) or math.inf, 1 - fmean(curve.success[-2:]))


def describe(one: tuple[str, float]) -> str:
    """Return words for a way to train from scratch and a learning rate."""
    way, rate = one
    return f"{'random trunk frozen' if way == 'head' else 'all layers'} at {rate:g}"


def learn_simpler(protocol: Protocol, folder: Path, seed: int) -> tuple[str, Curve]:
    """Train in one simpler world after the other; return the last run's folder, and what all of them cost."""
    weights, frames, seconds = "none", 0, 0.0
    for world in protocol.simpler:
        path = folder / f"source-{seed}-{world.partition(':')[2]}"
        run = _learning_curves.learn(
            path,
            f"source {seed}, {world}",
            task=world,
            seed=seed,
            weights=weights,
            rounds=protocol.source_rounds,
            frames=protocol.source_frames,
            steps=protocol.source_steps,
            eval_episodes=2 * protocol.episodes,
        )
        weights, frames, seconds = str(path), frames + run.frames[-1], seconds + run.seconds
    return weights, Curve("source", seed, (frames,), run.success[-1:], seconds)


def learn_target(
    protocol: Protocol, path: Path, label: str, seed: int, rounds: int, weights: str, **options: Any
) -> Curve:
    """Train in the target until success is held; the curve begins with an evaluation before any frame."""
    before = success_before(protocol, weights)
    run = _learning_curves.learn(
        path,
        label,
        task=protocol.target,
        seed=seed,
        weights=weights,
        rounds=rounds,
        frames=protocol.frames,
        steps=protocol.steps,
        eval_episodes=2 * protocol.episodes,  # a round is judged by half of them
        until_success=SUCCESS,
        **options,
    )
    return replace(run, frames=(0, *run.frames), success=(before, *run.success))


def success_before(protocol: Protocol, weights: str) -> float:
    """Return the share of a round's evaluation episodes that succeed with weights that have not seen the target."""
    from xfer import ImitationConfig, PolicyConfig, tasks
    from xfer.evaluate import episode_returns
    from xfer.models.pretrained import load_weights
    from xfer.models.torch_session import runner
    from xfer.training.rounds import ROUND_SEED
    from xfer.training.train import build_policy

    task = tasks.load(protocol.target)
    assert task.success is not None
    policy = build_policy(task, PolicyConfig.for_task(task), ImitationConfig.for_task(task))
    load_weights(policy, weights)
    seeds = range(ROUND_SEED, ROUND_SEED + protocol.episodes)
    returns = dict(episode_returns(task, runner(policy.eval(), batch=min(len(seeds), 10)), seeds))
    return fmean(value >= task.success for value in returns.values())


def judge(transfers: Sequence[Curve], scratches: Sequence[Curve], budget: int) -> dict[str, Any]:
    """Return frames until success of both sides, and how many times as many scratch needs.

    Where scratch does not get there within ``budget``, it counts with it, and the ratio is a lower bound.
    """
    ours, theirs = ([curve.reached(SUCCESS) for curve in curves] for curves in (transfers, scratches))
    needed = median(math.inf if frames is None else frames for frames in ours)
    at_least = math.isinf(median(math.inf if frames is None else frames for frames in theirs))
    ratio = median(budget if frames is None else frames for frames in theirs) / needed
    return {
        "transfer_frames": tuple(ours),
        "scratch_frames": tuple(theirs),
        "ratio": ratio,
        "at_least": at_least,
        "wanted": MIN_RATIO,
        "holds": ratio >= MIN_RATIO,
    }
