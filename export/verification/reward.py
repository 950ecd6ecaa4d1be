"""The third gate: pairs of episodes from the same seeds, variant against reference, until each verdict is clear."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from export.bundle.reader import Bundle
from export.bundle.records import Verification
from export.verification.non_inferiority import MARGIN, Verdict, judge
from export.verification.pair_cache import PairCache
from export.verification.pairs import Outcome, PairProcesses, why_independent
from xfer.errors import UsageError
from xfer.evaluate import PAIR_SEED

LOOK_EVERY = 10
"""Verdicts are looked at after so many pairs; the bound stays valid however often that is."""


def run_gate(
    bundle: Bundle,
    found: dict[str, Verification],
    most_pairs: int,
    workers: int,
    on_pairs: Callable[[int, dict[str, Verdict]], None],
    cache: PairCache | None = None,
    differs: str = "",
) -> dict[str, Verification]:
    """Run the reward gate on the variants that passed the first two, until each verdict is clear.

    A variant whose verdict is clear at a look runs no more pairs; the bound allows for all the looks before.

    Args:
        bundle: The bundle.
        found: The verdicts of the first two gates.
        most_pairs: Where to stop at the latest.
        workers: Processes, each with one thread.
        on_pairs: Called after each look, with the number of pairs and the verdicts.
        cache: Where pairs are kept at each look, so that an interrupted gate continues.
        differs: How the environment was found to give other episodes for equal seeds, or empty. Once it is found, the
            gate begins anew: pairs before, which shared episodes, do not count.

    Returns:
        ``found`` with verdicts. The result depends on the seeds only, not on the number of workers.

    Raises:
        UsageError: If there are no pairs to run, or no processes to run them.
        XferError: If a pair fails, or processes keep dying.
    """
    if most_pairs < 1 or workers < 1:
        raise UsageError(f"--pairs {most_pairs} and --workers {workers}: both must be at least 1.")
    assert bundle.spec.reward is not None
    scale, reference = bundle.spec.reward.span, bundle.reference
    names = [name for name, v in found.items() if v.status == "provisional" and name != reference]
    outcomes: dict[str, list[Outcome]] = cache.load(names) if cache else {name: [] for name in names}
    differs = differs or why_independent(itertools.chain.from_iterable(outcomes.values()))
    if differs:
        outcomes = {name: [pair for pair in pairs if pair.differs] for name, pairs in outcomes.items()}
    verdicts: dict[str, Verdict] = {}

    def unclear() -> tuple[str, ...]:
        running = [name for name, pairs in outcomes.items() if not (pairs and pairs[-1].error)]
        return tuple(name for name in running if name not in verdicts or not is_clear(verdicts[name]))

    def look() -> None:
        verdicts.update({name: judge(losses(outcomes[name], scale)) for name in unclear() if outcomes[name]})

    # Where a gate was interrupted: verdicts that are clear stay; the others continue from the one with fewest pairs.
    outcomes = {name: pairs[:most_pairs] for name, pairs in outcomes.items()}
    look()
    begun = min((len(outcomes[name]) for name in unclear()), default=0)
    outcomes |= {name: outcomes[name][:begun] for name in unclear()}
    look()
    if begun:
        on_pairs(begun, dict(verdicts))
    anew = ""
    if unclear() and begun < most_pairs:
        with PairProcesses(bundle, workers, differs) as processes:
            seeds = range(PAIR_SEED + begun, PAIR_SEED + most_pairs)
            for done, results in enumerate(processes.run(seeds, unclear), start=begun + 1):
                if not differs and (anew := why_independent(results.values())):
                    break
                for name in unclear():
                    outcomes[name].append(results[name])
                if done % LOOK_EVERY == 0 or done == most_pairs:
                    look()
                    if cache:
                        cache.save(outcomes)
                    on_pairs(done, dict(verdicts))
                if not unclear():
                    break
    if anew:
        return run_gate(bundle, found, most_pairs, workers, on_pairs, cache, anew)
    result = dict(found)
    for name, pairs in outcomes.items():
        if pairs and (error := pairs[-1].error):
            reason = f"reward: in the episode of seed {pairs[-1].seed}: {error}"
            result[name] = replace(found[name], status="rejected", rung="reward", reason=reason, pairs=len(pairs))
        else:
            result[name] = conclude(found[name], pairs, verdicts[name], scale)
    if reference in found and found[reference].status == "provisional":
        # Variants whose verdict was clear early have fewer pairs, the first ones of the same seeds.
        longest = max(outcomes.values(), key=len, default=[])
        result[reference] = replace(
            found[reference],
            status="verified",
            rung="reward",
            pairs=len(longest),
            reward_mean=float(np.mean([pair.reference for pair in longest])) if longest else None,
            reward_delta=0.0,
            reward_interval=(0.0, 0.0),
            reason="the reference itself",
            returns=tuple((pair.seed, pair.reference, pair.reference) for pair in longest),
        )
    return result


def losses(pairs: Sequence[Outcome], scale: float) -> np.ndarray:
    """Return what the variant lost in each pair, as a share of the scale: float [n]."""
    return np.array([(pair.reference - pair.variant) / scale for pair in pairs])


def is_clear(verdict: Verdict) -> bool:
    """Whether more pairs would not change the verdict: verified, or certainly worse."""
    return verdict.status == "verified" or verdict.lower > MARGIN


def conclude(so_far: Verification, pairs: Sequence[Outcome], verdict: Verdict, scale: float) -> Verification:
    """Return a verification with a verdict in the task's own units."""
    variant = float(np.mean([pair.variant for pair in pairs]))
    reason = {
        "verified": "",
        "provisional": f"reward: {verdict.needed} more clean pairs needed (xfer verify --full)",
        "rejected": f"reward: mean loss {verdict.mean:.2%} of the scale over {len(pairs)} pairs, allowed {MARGIN:.0%}",
    }[verdict.status]
    if differs := why_independent(pairs):
        reason = "; ".join(filter(None, [reason, f"{differs}; so each pair is of two independent episodes"]))
    divergences = [pair.divergence for pair in pairs if pair.divergence is not None]
    return replace(
        so_far,
        status=verdict.status,
        rung="reward",
        reason=reason,
        pairs=len(pairs),
        pairs_needed=verdict.needed,
        forked=len(divergences),
        reward_mean=variant,
        reward_delta=0.0 - verdict.mean * scale,
        reward_interval=(-verdict.upper * scale, -verdict.lower * scale),
        returns=tuple((pair.seed, pair.reference, pair.variant) for pair in pairs),
        divergence=divergences[0] if divergences else None,
    )
