"""Which recorded steps become golden: stretches from the beginnings and from late in several episodes.

Late ones, since what goes wrong with a state goes wrong late.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping

import numpy as np

from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

MOST_ROWS, LEAST_ROWS = 64, 12
MOST_BYTES = 8_000_000
"""Largest compressed size, unless that would leave fewer than ``LEAST_ROWS``."""
STRETCH = 6
"""Fewest steps of a stretch, in an episode that is long enough."""
EPISODES = 3
SAMPLED = 8
"""Rows that are compressed to guess what all take."""


def stretches(recorded: Trajectories, spec: PolicySpec) -> list[slice]:
    """Return where golden's stretches lie in recorded observations, in their order.

    Of the longest episodes first: their first and their last steps, or all of an episode that is shorter.

    Args:
        recorded: Observations [T, ...]; episodes start from zeros.
        spec: The policy's contract, for the size of its states.
    """
    rows = _rows(recorded, spec)
    longest = sorted(recorded.episodes(), key=lambda episode: episode.start - episode.stop)
    steps = max(STRETCH, rows // (2 * min(EPISODES, len(longest), rows // LEAST_ROWS)))
    chosen: list[slice] = []
    for episode in longest:
        left = rows - sum(part.stop - part.start for part in chosen)
        if min(episode.stop - episode.start, 2 * steps) > left:
            continue
        if episode.stop - episode.start <= 2 * steps:
            chosen.append(episode)
        else:
            chosen += [slice(episode.start, episode.start + steps), slice(episode.stop - steps, episode.stop)]
    return sorted(chosen, key=lambda part: part.start)


def _rows(recorded: Trajectories, spec: PolicySpec) -> int:
    """Return how many rows fit into the largest size."""
    sample = np.unique(np.linspace(0, len(recorded) - 1, SAMPLED).astype(int))
    row = max(_compressed({name: array[t] for name, array in recorded.observations.items()}) for t in sample)
    states = EPISODES * sum(4 * math.prod(state.shape) for state in spec.states)
    return max(LEAST_ROWS, min(MOST_ROWS, (MOST_BYTES - states) // row))


def _compressed(observations: Mapping[str, np.ndarray]) -> int:
    return sum(len(gzip.compress(array.tobytes(), compresslevel=1)) for array in observations.values())
