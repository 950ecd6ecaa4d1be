"""torchvision backbones as a table of named stages."""

from __future__ import annotations

from collections import OrderedDict

import torchvision
from torch import nn

from xfer.errors import check_choice

Stages = dict[str, tuple[str, ...]]
"""Stage -> the torchvision modules that it runs one after the other."""


def _resnet(*blocks: int) -> Stages:
    """Stages of a ResNet (He et al. 2016, table 1), each of which ends at half the resolution or less."""
    layers = {f"layer{i}": tuple(f"layer{i}.{j}" for j in range(n)) for i, n in enumerate(blocks, start=1)}
    return {"stem": ("conv1", "bn1", "relu", "maxpool"), **layers}


def _features(**ends: int) -> Stages:
    """Stages of a network whose convolutions are all in ``features``: each stage's last index there."""
    starts = [0, *(end + 1 for end in ends.values())]
    ranges = zip(ends.items(), starts, strict=False)
    return {stage: tuple(f"features.{i}" for i in range(start, end + 1)) for (stage, end), start in ranges}


BACKBONES: dict[str, Stages] = {
    "resnet18": _resnet(2, 2, 2, 2),
    "resnet34": _resnet(3, 4, 6, 3),
    "resnet50": _resnet(3, 4, 6, 3),
    # Each stage ends behind a ReLU; the pooling between two of them comes with the later one.
    "alexnet": _features(conv1=1, conv2=4, conv3=7, conv4=9, conv5=11),
    # Cut where the resolution halves, as a ResNet's layers are (Howard et al. 2019, table 2).
    "mobilenet_v3_small": _features(stem=0, layer1=1, layer2=3, layer3=8, layer4=11, last_conv=12),
}

STAGES = {name: tuple(stages) for name, stages in BACKBONES.items()}
"""The stages of each backbone, in order; a head can tap any of them, and ``--train-from`` names one."""


def build(name: str, tap: str) -> nn.Sequential:
    """Return the backbone with random weights, cut behind stage ``tap``.

    It keeps torchvision's own modules, and what they are called within their stage:
    ``layer1.0.conv1.weight``, ``stem.bn1.weight``, ``conv2.3.weight`` for AlexNet's ``features.3.weight``.

    Raises:
        UsageError: On an unknown backbone or stage.
    """
    check_choice("backbone", name, STAGES)
    stages = STAGES[name]
    check_choice("tap layer", tap, stages)
    net = torchvision.models.get_model(name, weights=None)
    cut: OrderedDict[str, nn.Module] = OrderedDict()
    for stage in stages[: stages.index(tap) + 1]:
        modules = OrderedDict((last_name(path), net.get_submodule(path)) for path in BACKBONES[name][stage])
        cut[stage] = nn.Sequential(modules)
    return nn.Sequential(cut)


def last_name(path: str) -> str:
    """Return the last part of a dotted path."""
    return path.rpartition(".")[2]
