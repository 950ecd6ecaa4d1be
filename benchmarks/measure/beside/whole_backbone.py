"""The whole backbone, timed beside a cut one: how much of the speed comes from the runtime, and how much from the cut.

A policy that taps an early stage executes a fraction of its ResNet. So that the effect of the cut is not taken for that
of the runtime, the same task is timed through all stages too: random weights, average pooling, the same input.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure.protocol import Candidate, Protocol
from export import targets
from export.bundle.manifest import Provenance
from export.bundle.reader import Bundle
from export.targets import Variant
from xfer.errors import XferError
from xfer.spec import PolicySpec
from xfer.trajectories import Trajectories

if TYPE_CHECKING:
    from xfer.models.config import PolicyConfig
    from xfer.models.policy import Policy

EAGER = "eager-fp32"
"""The build that holds the weights and the configuration of a policy of our own."""

VARIANTS = (EAGER, "torchscript-fp32", "onnx-fp32", "onnx-int8")


def build_sibling(bundle: Bundle, golden: Trajectories, variants: list[str], path: Path) -> Bundle | str:
    """Export the bundle's policy with its whole backbone.

    Args:
        bundle: A bundle of our own policy.
        golden: Its golden trajectories; int8 is calibrated on them.
        variants: What is timed of the bundle itself; those of ``VARIANTS`` among it are exported.
        path: Where the new bundle goes.

    Returns:
        The bundle, or a sentence that says why there is none.
    """
    eager = bundle.builds.get(EAGER)
    if not bundle.manifest.provenance.backbone:
        return "The whole network was timed: it is not one of xfer's own."
    reason = targets.load("eager").runnable("")
    if reason is not None:
        return f"The whole backbone was not timed: {reason}"
    if eager is None or eager.status != "built":
        return f"The whole backbone was not timed: the bundle has no {EAGER} to take its configuration from."
    from export.build import export_policy
    from xfer.models.backbones import STAGES
    from xfer.models.checkpoint import load_policy

    try:
        config = load_policy(bundle.check(eager)).config
        if config.tap == STAGES[config.backbone][-1]:
            return f"The policy's own graph is the whole {config.backbone}."
        policy = whole_policy(config, bundle.spec)
        wanted = [Variant.parse(name) for name in VARIANTS if name in variants]
        run = "random weights, for timing only"
        export_policy(policy, bundle.spec, golden, golden, wanted, path, run=run)
    except XferError as error:
        return f"The whole backbone was not timed: {error}"
    return Bundle(path)


def whole_policy(config: PolicyConfig, spec: PolicySpec, seed: int = 0) -> Policy:
    """Return a policy of the whole backbone, with average pooling and random weights; its readout is as configured."""
    import torch

    from xfer.models.backbones import STAGES
    from xfer.models.policy import Policy

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(replace(config, tap=STAGES[config.backbone][-1], head="average"), spec).eval()


def short(protocol: Protocol) -> Protocol:
    """Return how much is measured of the whole backbone: it is there to be looked at, and is not chosen or compared."""
    return replace(
        protocol,
        rounds=min(10, protocol.rounds),
        passes=1,
        calls=min(64, protocol.calls),
        seconds=min(0.5, protocol.seconds),
        starts=1,
        quick=True,
        strict=False,
    )


def candidates(sibling: Bundle) -> list[Candidate]:
    """Return what to time of a sibling bundle, each against the sibling's own reference."""
    provenance = sibling.manifest.provenance
    return [
        Candidate(row_name(name, provenance), sibling.path, name, row_name(sibling.reference, provenance))
        for name, build in sibling.builds.items()
        if build.status == "built"
    ]


def row_name(variant: str, provenance: Provenance) -> str:
    """Name of a whole backbone's row.

    Example:
        >>> provenance = Provenance("", "", "resnet18", "layer4", "average", 0, 0, "")
        >>> row_name("onnx-int8", provenance)
        'onnx-int8 (whole resnet18)'
    """
    return f"{variant} (whole {provenance.backbone})"
