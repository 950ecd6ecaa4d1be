"""The session of anything that is a callable on tensors: the eager module, a TorchScript one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xfer.runner import Arrays, Runner, Step, in_order
from xfer.spec import PolicySpec

if TYPE_CHECKING:  # it brings in torchvision, which a TorchScript variant does not need
    from xfer.models.policy import Policy


class TorchSession:
    """Runs ``module(*observations, *states)`` in inference mode.

    Args:
        module: A deployed policy, or what a target made of it.
        spec: Its contract.
        device: Where the module's weights are.
    """

    def __init__(self, module: Callable[..., tuple[Tensor, ...]], spec: PolicySpec, device: str = "cpu") -> None:
        self.module, self.device = module, device
        self.observation_names = [tensor.name for tensor in spec.observations]
        self.state_names = [tensor.name for tensor in spec.states]

    def step(self, observations: Arrays, states: Arrays) -> Step:
        """Run the module once; the copies back to NumPy wait for the device."""
        with torch.inference_mode():
            inputs = [torch.from_numpy(in_order(observations[name])) for name in self.observation_names]
            inputs += [torch.from_numpy(in_order(states[name])) for name in self.state_names]
            if self.device != "cpu":
                inputs = [tensor.to(self.device, non_blocking=True) for tensor in inputs]
            action, scores, *next_states = [out.cpu().numpy() for out in self.module(*inputs)]
        return Step(action, scores, dict(zip(self.state_names, next_states, strict=True)))


def runner(policy: Policy, device: str = "cpu", batch: int = 1) -> Runner:
    """Return the policy, as it is deployed, ready to act."""
    return Runner(TorchSession(policy.deploy().to(device), policy.spec, device), policy.spec, batch)


def set_threads(threads: int) -> None:
    """Use this many threads inside an operation in this process (PyTorch has one setting for all modules)."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
