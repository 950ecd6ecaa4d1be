"""The module of a policy that was trained elsewhere, as targets get it."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from export.importers._copied import copied, not_copied
from export.importers._layers import batch_norms
from export.libraries.causes import reason
from export.libraries.pytorch import example_inputs, trace
from xfer.errors import UsageError, XferError
from xfer.models.policy import Exportable
from xfer.spec import PolicySpec


class DeployedModule(nn.Module):
    """A copy of somebody's module in one precision, with inputs and outputs of the spec's types.

    Submodules that cannot be copied are shared with the original, and nothing of them is changed.

    Args:
        module: The module.
        spec: Its contract.
        dtype: What it computes in.

    Raises:
        UsageError: If a weight has no value, or a submodule that must be cast cannot be copied.
    """

    def __init__(self, module: nn.Module, spec: PolicySpec, dtype: torch.dtype) -> None:
        super().__init__()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if is_lazy(tensor) or tensor.is_meta:
                raise UsageError(f"The module's weight `{name}` has no value yet. Load its weights.")
        self.module, self.spec = copied(module), spec
        self.dtype = None if dtype == torch.float32 else dtype
        self.casts_itself = hasattr(module, "cast")
        if self.dtype is not None:
            if (shared := not_copied(module, self.module)) is not None:
                name, why = f"`{shared[0]}`" if shared[0] else f"a {type(module).__name__}", shared[1]
                raise UsageError(f"{name} cannot be copied ({why}), and what is not copied is not cast.")
            self.module.cast(dtype) if self.casts_itself else self.module.to(dtype)  # type: ignore[operator]
        own = {id(parameter) for parameter in module.parameters()}
        self.eval()
        for parameter in self.module.parameters():
            if id(parameter) not in own:
                parameter.requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the action, its scores and the next states.

        Raises:
            UsageError: If the module returns no tuple of tensors.
        """
        if self.dtype is None:
            return self._tensors(self.module(*inputs))
        if not self.casts_itself:
            inputs = tuple(x.to(self.dtype) if x.is_floating_point() else x for x in inputs)
        return tuple(x.float() if x.is_floating_point() else x for x in self._tensors(self.module(*inputs)))

    def _tensors(self, made: Any) -> tuple[Tensor, ...]:
        parts = [*made] if isinstance(made, tuple | list) else [made]
        if not isinstance(made, tuple | list) or not all(isinstance(part, Tensor) for part in parts):
            given = ", ".join(type(part).__name__ for part in parts)
            given = f"({given})" if isinstance(made, tuple | list) else f"a {given}"
            raise UsageError(
                f"The module's forward returns {given}. It must return a tuple of tensors:"
                f" ({', '.join(self.spec.output_names)})."
            )
        return tuple(parts)


def check(module: nn.Module, spec: PolicySpec) -> None:
    """Run copies of a deployed module on zeros, in batches of 2 and of 1, and see whether it fulfills its contract.

    Raises:
        UsageError: If not, with what differs.
    """
    wanted = [spec.action.chunk, spec.chunk_scores, *spec.states]
    for batch in (2, 1):
        try:
            with torch.inference_mode():
                outputs = copied(module)(*example_inputs(spec, batch))
        except XferError:
            raise
        except (Exception, SystemExit) as error:  # whatever somebody's module raises
            called = f"forward({', '.join(tensor.name for tensor in spec.inputs)})"
            said = f"The module fails on zeros of its spec's shapes, called as {called} ({reason(error)})."
            if batch == 1:
                said = f"The module takes a batch of 2, and fails on one of 1 ({reason(error)})."
                if layers := batch_norms(getattr(module, "module", module)):
                    said += f" Its answer depends on its batch: {layers}."
            raise UsageError(said) from error
        found = [f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in outputs]
        due = [f"{tensor.dtype} {[batch, *tensor.shape]}" for tensor in wanted]
        if found != due:
            raise UsageError(
                f"The module gives {', '.join(found)} for a batch of {batch}; its spec says {', '.join(due)}"
                f" ({', '.join(spec.output_names)})."
            )


def digest(policy: Exportable) -> str:
    """Return the SHA-256 of the weights and of what is computed with them, as 64 hexadecimal digits.

    Both, since the code is not ours: with other code the same weights are another policy.

    Raises:
        UsageError: If PyTorch cannot trace the module, or a weight cannot be read.
    """
    try:
        graph = trace(policy.deploy(), policy.spec).inlined_graph
    except XferError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody's module raises
        raise UsageError(f"PyTorch cannot trace the module ({reason(error)}).") from error
    nodes = [node for node in graph.findAllNodes("prim::Constant") if node.hasAttribute("value")]
    constants = [node.t("value") for node in nodes if node.kindOf("value") == "t"]
    known = {name: value for name, value in policy.state_dict().items() if isinstance(value, Tensor)}
    known |= {f"constant {i}": value for i, value in enumerate(constants)}
    try:
        saved = save({name: value.detach().contiguous().clone() for name, value in known.items()})
    except Exception as error:  # whatever a tensor of an unusual kind raises
        raise UsageError(f"The module's weights cannot be read ({reason(error)}).") from error
    # Without the names of classes, which PyTorch numbers as it meets them.
    operations = re.sub(r"__torch__\.\S+", "", graph.str(False))
    return hashlib.sha256(operations.encode() + saved).hexdigest()
