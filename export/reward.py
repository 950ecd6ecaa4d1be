"""The third rung: pairs of episodes from the same seeds, variant against eager, in parallel processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export import target
from export.bundle import Bundle
from export.records import Verification
from export.verdict import MARGIN, Verdict, judge
from export.verify import REFERENCE
from xfer import tasks
from xfer.evaluate import PAIR_SEED, Pair, paired_episode

LOOK_EVERY = 10
"""Verdicts are looked at after so many pairs; the bound stays valid however often that is."""


def unavailable(bundle: Bundle) -> str | None:
    """None if pairs can be run here, else why not."""
    if bundle.spec.task not in tasks.names():
        return f"no environment for task '{bundle.spec.task}' here"
    if bundle.spec.reward is None:
        return "the spec has no reward scale"
    if REFERENCE not in bundle.builds or bundle.builds[REFERENCE].status != "built":
        return f"the bundle has no {REFERENCE} to compare with"
    if (reason := target.load("eager").runnable("")) is not None:
        return reason
    try:
        tasks.load(bundle.spec.task)
    except ImportError as error:
        return f"{error}: pip install 'xfer-policy[{bundle.spec.task}]'"
    return None


def climb(
    bundle: Bundle,
    found: dict[str, Verification],
    most_pairs: int,
    workers: int,
    on_pairs: Callable[[int, dict[str, Verdict]], None],
) -> dict[str, Verification]:
    """Take the variants that nothing speaks against up the last rung, until each verdict is clear.

    Args:
        bundle: The bundle.
        found: What the first two rungs found.
        most_pairs: Where to stop at the latest.
        workers: Processes, each with one thread.
        on_pairs: Called after each look, with the number of pairs and the verdicts.

    Returns:
        ``found`` with verdicts. The result depends on the seeds only, not on the number of workers.
    """
    assert bundle.spec.reward is not None
    scale = bundle.spec.reward.span
    climbing = [name for name, v in found.items() if v.status == "provisional" and name != REFERENCE]
    pairs: dict[str, list[Pair]] = {name: [] for name in climbing}
    verdicts: dict[str, Verdict] = {}
    if climbing:
        with _pool(bundle.path, climbing, workers) as run:
            done = 0
            while done < most_pairs and not _all_clear(verdicts, climbing):
                step = min(LOOK_EVERY, most_pairs - done)
                for results in run(range(PAIR_SEED + done, PAIR_SEED + done + step)):
                    for name, pair in results.items():
                        pairs[name].append(pair)
                done += step
                verdicts = {name: judge(losses(pairs[name], scale)) for name in climbing}
                on_pairs(done, verdicts)
    result = dict(found)
    for name in climbing:
        result[name] = conclude(found[name], pairs[name], verdicts[name], scale)
    reference = [pair.reference for pair in next(iter(pairs.values()), [])]
    for name, verification in found.items():
        if name == REFERENCE and verification.status == "provisional":
            result[name] = replace(
                verification,
                status="verified",
                rung="reward",
                pairs=len(reference),
                reward_mean=float(np.mean(reference)) if reference else None,
                reward_delta=0.0,
                reward_interval=(0.0, 0.0),
                reason="the reference itself",
            )
    return result


def losses(pairs: list[Pair], scale: float) -> np.ndarray:
    """Return what the variant lost in each pair, as a share of the scale: float [n]."""
    return np.array([(pair.reference - pair.variant) / scale for pair in pairs])


def conclude(so_far: Verification, pairs: list[Pair], verdict: Verdict, scale: float) -> Verification:
    """Write a verdict down in the task's own units."""
    variant = float(np.mean([pair.variant for pair in pairs]))
    reason = {
        "verified": "",
        "provisional": f"reward: {verdict.needed} more clean pairs needed (xfer verify --full)",
        "rejected": f"reward: mean loss {verdict.mean:.2%} of the scale over {len(pairs)} pairs, allowed {MARGIN:.0%}",
    }[verdict.status]
    return replace(
        so_far,
        status=verdict.status,
        rung="reward",
        reason=reason,
        pairs=len(pairs),
        pairs_needed=verdict.needed,
        forked=sum(pair.forked_at is not None for pair in pairs),
        reward_mean=variant,
        reward_delta=0.0 - verdict.mean * scale,
        reward_interval=(-verdict.upper * scale, -verdict.lower * scale),
    )


def _all_clear(verdicts: dict[str, Verdict], names: list[str]) -> bool:
    """Whether more pairs would change nothing: verified, or surely worse."""
    return bool(verdicts) and all(
        verdicts[name].status == "verified" or verdicts[name].lower > MARGIN for name in names
    )


@contextmanager
def _pool(
    path: Path, variants: list[str], workers: int
) -> Iterator[Callable[[Iterable[int]], Iterator[dict[str, Pair]]]]:
    """Give a function that runs the pairs of some seeds, in their order, on several processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_open, initargs=(path, variants)) as executor:
        yield lambda seeds: executor.map(_run_pair, seeds)


_worker: dict[str, Any] = {}
"""What a worker process keeps open between pairs."""


def _open(path: Path, variants: list[str]) -> None:
    bundle = Bundle(path)
    stack = ExitStack()
    runners = {name: stack.enter_context(bundle.runner(name)) for name in (REFERENCE, *variants)}
    _worker.update(task=tasks.load(bundle.spec.task), runners=runners, stack=stack)


def _run_pair(seed: int) -> dict[str, Pair]:
    runners = dict(_worker["runners"])
    reference = runners.pop(REFERENCE)
    return paired_episode(_worker["task"], reference, runners, seed)
