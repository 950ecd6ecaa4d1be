"""What the measuring protocol promises, tried where the truth is known.

Three promises. The upper bounds of latency percentiles cover the truth, also where a neighbor slows whole turns. And
``xfer compare`` seldom calls an unchanged policy slower, also where every start of a process moves all of its times.
And the reference kernel seldom calls a round slowed in which nothing was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bench import check_libraries
from benchmarks.claims import Options, Outcome
from benchmarks.measure.protocol import Protocol, full, strict
from benchmarks.stats.changes import TOLERANCE, Times, estimate, verdict_on
from benchmarks.stats.percentiles import CONFIDENCE, upper_bound
from benchmarks.stats.slowed import slowed

RUNS, MIN_COVERAGE = 1000, 0.98
CALLS = 6
"""Of a turn, as of a policy that takes 3 ms."""

SHARES = {0.5: full(1), 0.9: full(1), 0.95: full(1), 0.99: full(1), 0.999: strict(1)}
"""Percentiles, and the form of a bench that gives them a bound."""

COMPARISONS, ALPHA, MAX_ERROR = 2000, 0.05, 0.06
VARIANTS = 4
STARTS_DEVIATION, ROUNDS_DEVIATION = 0.025, 0.02
"""Standard deviations of a speed-up: between starts of the two processes, and between rounds of one start."""

SLOWDOWNS = {0.0: None, 0.05: None, 0.08: 0.9}
"""By how much one variant became slower, and the share of comparisons that have to find it, where one is promised."""

TURNS_DEVIATION = 0.1
"""Standard deviation of the reference kernel's turns on a shared machine; with less, fewer rounds are called slowed."""

NEIGHBORS = {0.0: None, 0.1: None, 0.2: 0.8}
"""By how much a neighbor slows one round of each start, and the share of such rounds that have to be found."""

RESAMPLES = 999
"""Fewer than ``compare`` deals: the test is exact with any number, and this is done thousands of times."""

CLAIM = (
    f"The {CONFIDENCE:.0%} upper bounds of p50, p90, p95, p99 and p99.9 cover the true percentile in at least"
    f" {MIN_COVERAGE:.0%} of {RUNS:,} simulated runs of each kind, bursts included; and of {COMPARISONS:,} simulated"
    f" comparisons of an unchanged policy, whose speed-ups every start moves by {STARTS_DEVIATION:.1%}, at most"
    f" {MAX_ERROR:.0%} find a change at an error rate of {ALPHA:.0%}, with no tolerance; and of so many simulated"
    f" benches without a neighbor, in at most {MAX_ERROR:.0%} a round is called slowed."
)

SLOW_SHARE = 0.03
"""Share of the slow mode of bimodal latencies: p95 lies in the fast one, p99 in the slow one."""

BURSTS = (0.01, 0.02)
"""Shares of the turns in which a burst falls."""

SLOWED = 3.0
"""How many times as long all calls of a turn take in which a burst falls."""


def _lognormal(share: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    result: np.ndarray = np.exp(0.2 * ndtri(share))
    return result


def _pareto(share: np.ndarray) -> np.ndarray:
    """Tail index 1.5: the mean exists, the variance does not."""
    result: np.ndarray = (1 - share) ** (-1 / 1.5)
    return result


def _bimodal(share: np.ndarray) -> np.ndarray:
    fast = share < 1 - SLOW_SHARE
    within = np.where(fast, share / (1 - SLOW_SHARE), (share - (1 - SLOW_SHARE)) / SLOW_SHARE)
    return np.where(fast, 1 + 0.1 * within, 5 + within)


QUANTILES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "lognormal": _lognormal,
    "Pareto, tail index 1.5": _pareto,
    "bimodal, 3 % five times as slow": _bimodal,
}
"""Quantile functions, in milliseconds: of a share they give the truth, of uniform random numbers the samples."""


@dataclass(frozen=True)
class Latencies:
    """A kind of simulated latencies.

    Attributes:
        name: What it is called.
        quantile: Of a single call in a turn that nothing slows.
        bursts: Share of the turns that are slowed as a whole.
    """

    name: str
    quantile: Callable[[np.ndarray], np.ndarray]
    bursts: float = 0.0

    def truth(self, share: float) -> float:
        """Return the percentile: the time that a share of all calls do not exceed."""
        low, high = (float(self.quantile(np.array(x))) for x in (1e-9, 1 - 1e-9))
        high *= SLOWED
        for _ in range(200):
            middle = (low + high) / 2
            below = (1 - self.bursts) * self._share(middle) + self.bursts * self._share(middle / SLOWED)
            low, high = (middle, high) if below < share else (low, middle)
        return high

    def _share(self, time: float) -> float:
        """Return the share of unslowed calls that take at most so long, by bisection of the quantile."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if float(self.quantile(np.array(middle))) <= time else (low, middle)
        return low

    def draw(self, rng: np.random.Generator, turns: int) -> np.ndarray:
        """Return the calls of so many turns: float [turns, CALLS]."""
        slow = np.where(rng.random((turns, 1)) < self.bursts, SLOWED, 1.0)
        drawn: np.ndarray = self.quantile(rng.random((turns, CALLS))) * slow
        return drawn


KINDS = (
    *(Latencies(name, quantile) for name, quantile in QUANTILES.items()),
    *(Latencies(f"lognormal, {share:.1%} of the turns three times as slow", _lognormal, share) for share in BURSTS),
)


def reproduce(options: Options) -> Outcome:
    """Simulate the runs, and the comparisons."""
    check_libraries()
    rng = np.random.default_rng(options.seed)  # one for all: equal numbers would make all kinds one experiment
    bounds = [_bounds(kind, share, options.runs or RUNS, rng) for kind in KINDS for share in SHARES]
    compared = [_comparisons(slower, options.runs or COMPARISONS, rng) for slower in SLOWDOWNS]
    neighbors = [_slowed(slower, options.runs or COMPARISONS, rng) for slower in NEIGHBORS]
    note = (
        f"Comparisons: {VARIANTS} variants and their reference, {full(1).starts} starts a bench; a slow-down is of one"
        f" variant, and found with the default tolerance of {TOLERANCE:.0%}."
    )
    return Outcome((*bounds, *compared, *neighbors), (note,))


def _bounds(kind: Latencies, share: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Simulate benches of one kind, and count how many bounds of a percentile cover the truth."""
    form = SHARES[share]
    turns = form.rounds * form.passes
    truth = kind.truth(share)
    found = (upper_bound(list(kind.draw(rng, turns)), share) for _ in range(runs))
    covered = sum(bound is not None and bound >= truth for bound in found) / runs
    return {
        "case": f"p{100 * share:g} of {kind.name}",
        "turns": turns,
        "runs": runs,
        "share": covered,
        "promised": f"at least {MIN_COVERAGE:.0%} covered",
        "holds": covered >= MIN_COVERAGE,
    }


def _comparisons(slower: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Simulate pairs of benches, one variant slower in the second, and count in how many that is found.

    Of an unchanged policy, any change that is found in any variant counts, with no tolerance.
    """
    form = full(1)
    names = [f"variant {index}" for index in range(VARIANTS)]
    found = 0
    for _ in range(runs):
        old, new = _bench(form, names, 0.0, rng), _bench(form, names, slower, rng)
        estimates = estimate(old, new, names, "eager", "eager", ALPHA, RESAMPLES)
        verdicts = {name: verdict_on(one, TOLERANCE if slower else 0.0) for name, one in estimates.items()}
        found += verdicts[names[0]] == "slower" if slower else set(verdicts.values()) != {"no difference"}
    promised, least = f"at most {MAX_ERROR:.0%} found", SLOWDOWNS[slower]
    if slower:
        promised = f"at least {least:.0%} found" if least else "only reported"
    share = found / runs
    return {
        "case": f"a variant {slower:.0%} slower" if slower else "an unchanged policy",
        "turns": form.rounds * form.passes,
        "runs": runs,
        "share": share,
        "promised": promised,
        "holds": share >= (least or 0.0) if slower else share <= MAX_ERROR,
    }


def _slowed(slower: float, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Simulate turns of the reference kernel, one round of each start slowed by a neighbor.

    Without a neighbor, benches count in which any round is called slowed; with one, the slowed rounds that are found.
    """
    form = full(1)
    shape = form.starts, form.rounds // form.starts, form.passes
    found = 0.0
    for _ in range(runs):
        times = rng.normal(0, STARTS_DEVIATION, (form.starts, 1, 1)) + rng.normal(0, TURNS_DEVIATION, shape)
        times[:, 0] += math.log1p(slower)
        called = np.reshape(slowed(np.exp(times).tolist()), shape[:2])
        found += float(called[:, 0].mean() if slower else called.any())
    promised, least = f"at most {MAX_ERROR:.0%} called slowed", NEIGHBORS[slower]
    if slower:
        promised = f"at least {least:.0%} found" if least else "only reported"
    return {
        "case": f"rounds that a neighbor slows by {slower:.0%}" if slower else "a bench without a neighbor",
        "turns": form.rounds * form.passes,
        "runs": runs,
        "share": found / runs,
        "promised": promised,
        "holds": found / runs >= (least or 0.0) if slower else found / runs <= MAX_ERROR,
    }


def _bench(form: Protocol, names: Sequence[str], slower: float, rng: np.random.Generator) -> Times:
    """Return logarithms of medians by row, start and round; the first name's are slower by a share."""
    # Half of a ratio's variance comes from each of its two processes.
    starts, rounds = (deviation / math.sqrt(2) for deviation in (STARTS_DEVIATION, ROUNDS_DEVIATION))
    shape = len(names) + 1, form.starts, form.rounds // form.starts
    times = rng.normal(0, starts, (*shape[:2], 1)) + rng.normal(0, rounds, shape)
    times[1] += math.log1p(slower)
    return {name: list(own) for name, own in zip(("eager", *names), times, strict=True)}
