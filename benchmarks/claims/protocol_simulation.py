"""How often the upper bounds of latency percentiles cover the truth, where the truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.bench import check_libraries
from benchmarks.claims import Options, Outcome
from benchmarks.stats.percentiles import CONFIDENCE, upper_bound

RUNS, MIN_COVERAGE = 1000, 0.98
SAMPLES = {0.5: 1024, 0.9: 1024, 0.95: 1024, 0.99: 1024, 0.999: 6700}
"""Percentiles, and the fewest calls of a run that gives them: of the default form, for p99.9 of ``--strict``."""
CLAIM = (
    f"The {CONFIDENCE:.0%} upper bounds of p50, p90, p95, p99 and p99.9 cover the true percentile in at least"
    f" {MIN_COVERAGE:.0%} of {RUNS:,} simulated runs of each kind."
)

SLOW_SHARE = 0.03
"""Share of the slow mode of bimodal latencies: p95 lies in the fast one, p99 in the slow one."""


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


def reproduce(options: Options) -> Outcome:
    """Simulate the runs."""
    check_libraries()
    runs = options.runs or RUNS
    rng = np.random.default_rng(options.seed)  # one for all: equal numbers would make all kinds one experiment
    rows = []
    for kind, quantile in QUANTILES.items():
        for share, samples in SAMPLES.items():
            truth = float(quantile(np.array(share)))
            bounds = [upper_bound(quantile(rng.random(samples)).tolist(), share) for _ in range(runs)]
            covered = sum(bound is not None and bound >= truth for bound in bounds) / runs
            rows.append(
                {
                    "latencies": kind,
                    "percentile": f"p{100 * share:g}",
                    "samples": samples,
                    "runs": runs,
                    "covered": covered,
                    "at_least": MIN_COVERAGE,
                    "holds": covered >= MIN_COVERAGE,
                }
            )
    note = "Calls are simulated as independent; a real machine's are not, which rounds and stability marks watch for."
    return Outcome(tuple(rows), (note,))
