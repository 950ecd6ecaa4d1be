"""Somebody's policy at work before there is a bundle. What goes wrong is said in one line that names the fault."""

from __future__ import annotations

import numpy as np
import torch

from export.importers._deployable import Deployable
from export.importers._layers import not_finite
from export.libraries.causes import reason
from xfer.errors import ObservationError, ScoresError, UsageError, XferError
from xfer.models.torch_session import TorchSession
from xfer.runner import Action, Arrays, Runner, Step
from xfer.trajectories import Trajectories
from xfer.trajectories.rows import Rows

ROWS = 64
"""How many rows are looked at together."""


class Acting(Runner):
    """The policy as it is deployed, for one environment.

    Args:
        policy: The policy; its spec names where it acts.
    """

    def __init__(self, policy: Deployable) -> None:
        super().__init__(TorchSession(policy.deploy(), policy.spec), policy.spec)
        self._module, self._place, self._step, self._cause = policy.live(), policy.spec.task, 0, ""

    def reset(self, mask: np.ndarray | None = None, states: Arrays | None = None) -> None:
        """Start a new episode; see ``Runner``."""
        super().reset(mask, states)
        self._step = 0

    def act(self, observations: Arrays) -> Action:
        """Choose an action; see ``Runner``.

        Raises:
            ObservationError: If an observation is at fault, with its step.
            ScoresError: If the policy is, with the weight or layer.
            UsageError: If the module fails.
        """
        where = f"{self._place}, step {self._step} of an episode"
        self._step += 1
        try:
            return super().act(observations)
        except ObservationError as error:
            raise ObservationError(f"{where}: {error}") from error
        except ScoresError as error:
            raise ScoresError(f"{where}: {error} {self._cause}".strip()) from error
        except XferError:
            raise
        except (Exception, SystemExit) as error:  # whatever somebody's module raises
            raise UsageError(f"{where}: the module fails on an observation ({reason(error)}).") from error

    def _infer(self, fed: dict[str, np.ndarray], due: np.ndarray | None = None) -> Step:
        try:
            return super()._infer(fed, due)
        except ScoresError:
            given = [fed[o.name] for o in self.spec.observations] + [*self._states.values()]
            self._cause = not_finite(self._module, [torch.from_numpy(np.array(array)) for array in given])
            raise


def refuse_what_is_not_finite(policy: Deployable, recorded: Trajectories, file: str) -> None:
    """Refuse observations that are not finite, unless the policy knows what to make of them.

    Args:
        policy: The policy.
        recorded: Observations.
        file: Where they were read from, for messages.

    Raises:
        ObservationError: With file, observation and row.
    """
    for array in recorded.observations.values():
        if (row := _not_finite(array)) is None:
            continue
        runner = Runner(TorchSession(policy.deploy(), policy.spec), policy.spec)
        try:
            runner.act({key: one[row] for key, one in recorded.observations.items()})
        except XferError as error:
            raise type(error)(f"{file}, row {row}: {error}") from error
        except (Exception, SystemExit) as error:  # whatever somebody's module raises
            raise UsageError(f"{file}, row {row}: the module fails on an observation ({reason(error)}).") from error


def _not_finite(array: Rows) -> int | None:
    """Return the first row that is not finite."""
    if array.dtype.kind == "f":
        for start in range(0, len(array), ROWS):
            finite = np.isfinite(array[start : start + ROWS])
            if not finite.all():
                return start + int((~finite.reshape(len(finite), -1).all(axis=1)).argmax())
    return None
