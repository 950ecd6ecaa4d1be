"""A policy that was trained elsewhere, as every importer hands it on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xfer.errors import UsageError, check_choice
from xfer.runner import Session
from xfer.spec import PolicySpec

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Deployable:
    """A policy that was trained elsewhere: what the function of `xfer export module:function` returns.

    Attributes:
        module: Its ``forward(*observations, *states)`` gives ``(action, scores, *next_states)``, with the names, shapes
            and dtypes that the spec lists, the batch first: raw observations in, the environment's own action out. It
            remembers nothing between calls. It may have a method ``cast(dtype)`` that makes it compute in fp16 or
            bf16; without one all of it is cast, its floating inputs too.
        spec: The contract. ``task`` names where it acts, or is empty.
        original: The same policy as the library acts with it that trained it, or None. Before it is exported the
            module is compared with it on all recorded observations.

    Example::

        def make():
            joints = TensorSpec("joints", "float32", (7,))
            torques = ActionSpec("continuous", ("shoulder", "elbow"), "N m", low=(-1, -1), high=(1, 1))
            return Deployable(MyPolicy(), PolicySpec("", 50.0, (joints,), (), torques, "mean"))
    """

    module: nn.Module
    spec: PolicySpec
    original: Session | None = field(default=None, compare=False, repr=False)

    def live(self) -> nn.Module:
        """Return the module itself, in eval mode: what all that is made of it is compared with.

        Raises:
            UsageError: If it cannot be put into eval mode.
        """
        from export.libraries.causes import reason

        try:
            return self.module.eval()
        except Exception as error:  # whatever somebody's module raises
            raise UsageError(f"The module cannot be put into eval mode ({reason(error)}).") from error

    def deploy(self, precision: str = "fp32") -> nn.Module:
        """Return a copy of the module, in eval mode, that computes in ``precision``.

        Raises:
            UsageError: If it cannot, for its forward pass mixes types or it cannot be copied.
        """
        from export.importers._deployed import DeployedModule, check
        from export.libraries.causes import reason
        from xfer.models.policy import PRECISIONS

        check_choice("precision", precision, PRECISIONS)
        try:
            deployed = DeployedModule(self.module, self.spec, PRECISIONS[precision])
        except Exception as error:  # whatever somebody's module raises
            why = str(error) if isinstance(error, UsageError) else f"The module cannot be copied ({reason(error)})."
            raise UsageError(why if precision == "fp32" else f"no {precision}: {why}") from error
        if precision == "fp32":
            return deployed
        try:
            check(deployed, self.spec)
        except UsageError as error:
            raise UsageError(f"no {precision}: {error} Give the module a method cast(dtype).") from error
        return deployed

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the module's."""
        return self.module.parameters()

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the module's."""
        state: Mapping[str, Tensor] = self.module.state_dict()
        return state
