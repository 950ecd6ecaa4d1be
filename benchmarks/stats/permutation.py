"""Whether several variables changed between two sets of draws, by a permutation test with one error rate for all.

A draw has to be what is exchangeable: of benches, a start of all processes. Dealing all draws anew to the two sets
shows how large a difference chance alone makes. Draws are dealt for all variables together, since these share what
happened in one, and the largest studentized difference among them counts (Westfall & Young 1993, "Resampling-Based
Multiple Testing", the single-step max T procedure). So the error rate is that of the whole family, however large it is,
and the same quantile gives simultaneous intervals. Holm's correction would do for the error rate, but with five draws a
side there are 252 dealings, and it could find nothing among more than six variables.
"""

from __future__ import annotations

import math

import numpy as np

from xfer.errors import UsageError

RESAMPLES = 9999
"""How often draws are dealt anew, unless told."""


def simultaneous(
    old: np.ndarray, new: np.ndarray, alpha: float, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how much each variable changed, and by how much that may be wrong.

    Args:
        old: float [variables, starts]; a start is one draw of all variables.
        new: float [variables, starts], likewise; the number of starts may differ.
        alpha: Error rate of all variables together.
        resamples: How often draws are dealt anew; if there are fewer ways to deal them, each is tried once.

    Returns:
        Differences of means, half widths of their simultaneous intervals, adjusted p-values: float [variables] each.

    Raises:
        UsageError: If there are too few starts for that error rate.
    """
    from scipy.stats import permutation_test

    ways = math.comb(old.shape[1] + new.shape[1], new.shape[1])
    if min(old.shape[1], new.shape[1]) < 2 or 2 / ways > alpha:
        raise UsageError(
            f"{old.shape[1]} and {new.shape[1]} starts of each process are too few to tell anything at an error rate of"
            f" {alpha:g}. Bench again, without --quick and with all --rounds, or with --strict."
        )

    def spread(old: np.ndarray, new: np.ndarray, axis: int) -> np.ndarray:
        counts = old.shape[axis], new.shape[axis]
        squares = old.var(axis) * counts[0] + new.var(axis) * counts[1]
        error: np.ndarray = np.sqrt(squares / (sum(counts) - 2) * sum(1 / count for count in counts))
        return error.clip(min=1e-9)  # equal samples differ by nothing, not by 0/0

    def studentized(old: np.ndarray, new: np.ndarray, axis: int) -> np.ndarray:
        result: np.ndarray = (new.mean(axis) - old.mean(axis)) / spread(old, new, axis)
        return result

    generator = np.random.default_rng(0)  # the same two files always give the same verdict
    test = permutation_test((old, new), studentized, vectorized=True, axis=-1, n_resamples=resamples, rng=generator)
    largest = np.abs(test.null_distribution).max(axis=1)
    # The dealing that was observed is one of them: added where they are drawn at random, there where all are tried.
    observed = np.abs(test.statistic)
    if ways > resamples:
        largest = np.append(largest, observed.max())
    critical = np.quantile(largest, 1 - alpha, method="inverted_cdf")
    p_values = (largest[:, None] >= observed - 1e-9).mean(axis=0)
    return new.mean(1) - old.mean(1), critical * spread(old, new, 1), p_values
