"""The third gate: pairs of episodes from the same seeds, variant against reference, until each verdict is clear."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from export.bundle.reader import Bundle
from export.bundle.record import Verification
from export.verification.ledger import MOST_PAIRS, Entry, Ledger
from export.verification.non_inferiority import MARGIN, MAX_PAIRS, Verdict, judge_jointly
from export.verification.pairs import Outcome, PairProcesses, why_independent
from xfer import tasks
from xfer.errors import UsageError, XferError

LOOK_EVERY = 10
"""Verdicts are looked at after so many pairs; the bound stays valid however often that is."""


def run_gate(
    bundle: Bundle,
    found: dict[str, Verification],
    most_pairs: int,
    workers: int,
    on_pairs: Callable[[int, dict[str, Verdict]], None],
    ledger: Ledger | None = None,
) -> dict[str, Verification]:
    """Run the reward gate on the variants that passed the first two, until each verdict is clear.

    A variant whose verdict is clear at a look runs no more pairs; the bound allows for all the looks before. Pairs that
    the ledger has are not run again, and all of them count.

    Args:
        bundle: The bundle.
        found: The verdicts of the first two gates.
        most_pairs: How many pairs a variant has at most when more are run.
        workers: Processes, each with one thread.
        on_pairs: Called after each look, with the number of pairs and the verdicts.
        ledger: Where pairs are kept at each look, those of all variants that entered the gate before among them.
            Default: one that keeps nothing.

    Returns:
        ``found`` with verdicts. They depend on the seeds only, not on the order of variants or the number of workers.

    Raises:
        UsageError: If there are no pairs to run or more than there are seeds, or no processes to run them.
        XferError: If a pair fails, or processes keep dying.
    """
    if not 1 <= most_pairs <= MOST_PAIRS or workers < 1:
        most = f"both must be at least 1, pairs at most {MOST_PAIRS:,}"
        raise UsageError(f"--pairs {most_pairs} and --workers {workers}: {most}.")
    assert bundle.spec.reward is not None
    scale, reference = bundle.spec.reward.span, bundle.reference
    names = [name for name, v in found.items() if v.status == "provisional" and name != reference]
    pairs = _Pairs(ledger or Ledger(bundle, keep=False), names, scale)

    def look() -> None:
        pairs.look()
        on_pairs(pairs.done(), dict(pairs.verdicts))

    pairs.look()
    if begun := pairs.done():
        on_pairs(begun, dict(pairs.verdicts))
    while pairs.batches(most_pairs):
        differs = pairs.differs
        with PairProcesses(bundle, workers, differs) as processes:
            while pairs.differs == differs and (batches := pairs.batches(most_pairs)):
                alone = len(batches) == 1  # else they take turns, so that stakes are averaged at the same look
                fewest = min(count for _, count in batches)
                until = most_pairs if alone else min(most_pairs, fewest - fewest % LOOK_EVERY + LOOK_EVERY)
                for (base, count), batch in batches.items():
                    seeds = range(base + count, base + until) if pairs.differs == differs else range(0)
                    for done, results in enumerate(processes.run(seeds, partial(pairs.unclear, batch)), count + 1):
                        pairs.add(batch, results)
                        if pairs.differs != differs:
                            break
                        if alone and done % LOOK_EVERY == 0:
                            look()
                        if not pairs.unclear(batch):
                            break
                if pairs.differs == differs and not pairs.looked:
                    look()
    result = dict(found)
    for name in names:
        result[name] = conclude(found[name], pairs.entry(name), pairs.verdicts.get(name), scale)
    if reference in found and found[reference].status == "provisional":
        # Variants whose verdict was clear early have fewer pairs, the first ones of the same seeds.
        longest = max(
            (pairs.entry(name) for name in sorted(names)), key=lambda entry: len(_sound(entry.outcomes)), default=None
        )
        outcomes = _sound(longest.outcomes) if longest else []
        result[reference] = replace(
            found[reference],
            status="verified",
            rung="reward",
            pairs=len(outcomes),
            reward_mean=float(np.mean([pair.reference for pair in outcomes])) if outcomes else None,
            reward_delta=0.0,
            reward_interval=(0.0, 0.0),
            reason="the reference itself",
            returns=tuple((pair.seed, pair.reference, pair.reference) for pair in outcomes),
            seed_base=longest.seed_base if longest else None,
            max_episode_steps=tasks.max_episode_steps(),
        )
    return result


class _Pairs:
    """The pairs of those that are judged now, beside those of all that entered the gate before.

    Args:
        ledger: Where they are kept.
        names: The variants that are judged now.
        scale: The span of the reward.

    Attributes:
        verdicts: Of the last look, on each variant that has pairs.
        looked: Whether no pair came since.
        differs: How the environment was found to give other episodes for equal seeds, or empty. Then the gate begins
            anew: pairs before, which shared episodes, do not count.
    """

    def __init__(self, ledger: Ledger, names: Sequence[str], scale: float) -> None:
        self._ledger, self._scale = ledger, scale
        self._entries = ledger.enter(names)
        now = {entry.key for entry in self._entries.values()}
        self._before = [losses(entry.outcomes, scale) for key, entry in ledger.entries().items() if key not in now]
        # An episode that was not finished is tried once more.
        self._outcomes = {name: _sound(entry.outcomes) for name, entry in self._entries.items()}
        self._verified = {name for name, entry in self._entries.items() if entry.verified}
        self.verdicts: dict[str, Verdict] = {}
        self.looked = False
        self.differs = ""
        self._notice(pair for outcomes in self._outcomes.values() for pair in outcomes)

    def _notice(self, pairs: Iterable[Outcome]) -> bool:
        """Begin anew if an environment is found only now not to replay; say whether."""
        differs = why_independent(pairs)
        if self.differs or not differs:
            return False
        self.differs, self.verdicts, self._verified = differs, {}, set()
        self._outcomes = {name: [pair for pair in pairs if pair.differs] for name, pairs in self._outcomes.items()}
        return True

    def unclear(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of some variants that run more pairs: none of theirs failed, and their verdict is not clear."""
        running = (name for name in names if not _failed(self._outcomes[name]))
        return tuple(name for name in running if name not in self.verdicts or not is_clear(self.verdicts[name]))

    def batches(self, most_pairs: int) -> dict[tuple[int, int], tuple[str, ...]]:
        """Return the variants that need more pairs, by the seed of their first pair and how many they have."""
        found: dict[tuple[int, int], tuple[str, ...]] = {}
        for name in self.unclear(sorted(self._entries)):
            key = self._entries[name].seed_base, len(self._outcomes[name])
            if key[1] < most_pairs:
                found[key] = (*found.get(key, ()), name)
        return found

    def add(self, names: Iterable[str], results: dict[str, Outcome]) -> None:
        """Take the outcomes of one seed for those of some variants whose verdict is not clear."""
        self.looked = False
        if self._notice(results.values()):
            return
        for name in self.unclear(names):
            self._outcomes[name].append(storable(results[name]))

    def look(self) -> None:
        """Judge all jointly, and keep their pairs."""
        own = {name: losses(outcomes, self._scale) for name, outcomes in self._outcomes.items() if outcomes}
        found = judge_jointly(own, running=self.unclear(own), beside=self._before)
        self.verdicts = {name: self._lasting(name, verdict) for name, verdict in found.items()}
        self._verified |= {name for name, verdict in self.verdicts.items() if verdict.status == "verified"}
        if not self.looked:
            self._ledger.save(self.entry(name) for name in own)
        self.looked = True

    def done(self) -> int:
        """Return how many pairs those have that need more; without any, the most that there are."""
        running = [len(self._outcomes[name]) for name in self.unclear(self._entries)]
        return min(running) if running else max(map(len, self._outcomes.values()), default=0)

    def entry(self, name: str) -> Entry:
        """Return what is kept of one variant."""
        outcomes = tuple(self._outcomes[name])
        return replace(self._entries[name], outcomes=outcomes, verified=name in self._verified)

    def _lasting(self, name: str, verdict: Verdict) -> Verdict:
        """What was verified stays so when others join: a claim that was refuted once remains refuted."""
        return replace(verdict, status="verified", needed=0, looks_worse=False) if name in self._verified else verdict


def storable(pair: Outcome) -> Outcome:
    """Return a pair as it is kept and judged: all of its figures are finite.

    A variant that did not finish its episode, or whose return is not a number, has failed there.

    Raises:
        XferError: If the reference's return is not finite, which says nothing of the variant.
    """
    if not math.isfinite(pair.reference):
        raise XferError(
            f"The reference's return in the episode of seed {pair.seed} is {pair.reference}: mend the environment's"
            " rewards; --pairs 0 leaves the reward gate out."
        )
    if math.isfinite(pair.variant):
        return pair
    return replace(pair, variant=0.0, error=pair.error or f"its return is {pair.variant}")


def _failed(outcomes: Sequence[Outcome]) -> bool:
    return bool(outcomes) and bool(outcomes[-1].error)


def _sound(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return list(outcomes[:-1] if _failed(outcomes) else outcomes)


def losses(pairs: Sequence[Outcome], scale: float) -> np.ndarray:
    """Return what the variant lost in each pair that both finished, as a share of the scale: float [n]."""
    return np.array([(pair.reference - pair.variant) / scale for pair in _sound(pairs)])


def is_clear(verdict: Verdict) -> bool:
    """Whether more pairs would not change the verdict: verified, or certainly worse."""
    return verdict.status != "provisional"


def conclude(so_far: Verification, entry: Entry, verdict: Verdict | None, scale: float) -> Verification:
    """Return a verification with a verdict in the task's own units."""
    pairs = entry.outcomes
    steps = tasks.max_episode_steps()
    so_far = replace(so_far, rung="reward", pairs=len(pairs), seed_base=entry.seed_base, max_episode_steps=steps)
    if _failed(pairs) or verdict is None:
        last = pairs[-1]
        if last.status == "built":
            return replace(so_far, status="built", rung="", reason=f"not run here: {last.error}")
        reason = f"reward: in the episode of seed {last.seed}: {last.error}"
        return replace(so_far, status="failed" if last.status == "failed" else "rejected", reason=reason)
    divergences = [pair.divergence for pair in pairs if pair.divergence is not None]
    return replace(
        so_far,
        status=verdict.status,
        reason=reason_of(verdict, pairs),
        pairs_needed=verdict.needed,
        forked=entry.forked + len(divergences),
        reward_mean=float(np.mean([pair.variant for pair in pairs])),
        reward_delta=0.0 - verdict.mean * scale,
        reward_interval=(-verdict.upper * scale, -verdict.lower * scale),
        returns=tuple((pair.seed, pair.reference, pair.variant) for pair in pairs),
        divergence=divergences[0] if divergences else None,
    )


def reason_of(verdict: Verdict, pairs: Sequence[Outcome]) -> str:
    """Return what a verdict rests on, or what is missing; empty if there is nothing to say."""
    said = []
    if verdict.status == "rejected":
        said.append(
            f"mean loss {verdict.mean:.2%} of the scale over {len(pairs)} pairs, surely more than {verdict.lower:.2%};"
            f" allowed {MARGIN:.0%}"
        )
    elif verdict.looks_worse:
        more = f"{verdict.needed:,}" + (" or more" if verdict.needed == MAX_PAIRS else " more")
        worse = f"looks worse (mean loss {verdict.mean:.2%} of the scale over {len(pairs)} pairs)"
        said.append(f"{worse}: {more} pairs decide")
    elif verdict.status == "provisional":
        said.append(f"{verdict.needed} more clean pairs needed (xfer verify --full)")
    if verdict.clipped:
        beyond = f"{verdict.clipped} of {len(pairs)} pairs lost or gained more than the scale"
        said.append(f"the bound is of the clipped loss: {beyond}")
    if differs := why_independent(pairs):
        said.append(f"{differs}; so each pair is of two independent episodes")
    return f"reward: {'; '.join(said)}" if said else ""
