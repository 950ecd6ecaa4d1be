"""Somebody's own ``nn.Module`` with a ``PolicySpec``: `xfer export module:function`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xfer import user_code
from xfer.errors import UsageError, check_choice
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

    Example::

        def make():
            joints = TensorSpec("joints", "float32", (7,))
            torques = ActionSpec("continuous", ("shoulder", "elbow"), "N m", low=(-1, -1), high=(1, 1))
            return Deployable(MyPolicy(), PolicySpec("", 50.0, (joints,), (), torques, "mean"))
    """

    module: nn.Module
    spec: PolicySpec

    def deploy(self, precision: str = "fp32") -> nn.Module:
        """Return a copy of the module, in eval mode, that computes in ``precision``.

        Raises:
            UsageError: If it cannot, for its forward pass mixes types.
        """
        from export.importers._deployed import DeployedModule, check
        from xfer.models.policy import PRECISIONS

        check_choice("precision", precision, PRECISIONS)
        deployed = DeployedModule(self.module, self.spec, PRECISIONS[precision])
        if precision != "fp32":
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


def load(name: str) -> Deployable:
    """Return what the function called ``name`` gives, checked against its own spec.

    Raises:
        UsageError: If there is no such function, it returns something else, or module and spec do not fit each other.
        UnavailableError: If it needs a library that is not installed.
        XferError: If it fails.
    """
    from torch import nn

    from export.importers._deployed import check

    try:
        found = user_code.call(name, "Policy")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UsageError(f"{name}: there is no such function, neither in this folder nor installed.")
    module, spec = getattr(found, "module", None), getattr(found, "spec", None)
    if not (isinstance(module, nn.Module) and isinstance(spec, PolicySpec)):
        raise UsageError(f"{name} returns a {type(found).__name__}. It must return an export.Deployable(module, spec).")
    policy = Deployable(module, spec)
    check(policy.deploy(), spec)
    return policy
