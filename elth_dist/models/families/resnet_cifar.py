"""CIFAR ResNets of depth 6n+2 (He et al. 2016, section 4.2), with 1x1-conv shortcuts as in E-LTH."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from elth_dist.errors import UserError
from elth_dist.models.family import Architecture, Family, Published
from elth_dist.registry import families

if TYPE_CHECKING:
    from torch import Tensor, nn

WIDTHS = (16, 32, 64)
#: The deepest CIFAR ResNet of He et al. (2016), and our limit.
DEEPEST = 1202

_NAME = re.compile(r"resnet(0|[1-9]\d{0,4})_cifar", re.ASCII)


class CifarResNet(Family):
    """Three stages of n residual blocks, 32 px as published; keys in torchvision's style."""

    name = "resnet_cifar"
    names = tuple(f"resnet{depth}_cifar" for depth in (8, 14, 20, 32, 44, 56, 110))
    form = "resnet(6n+2)_cifar"
    published = Published(32, 10)

    def architecture(self, name: str) -> Architecture | None:
        """resnet{6n+2}_cifar."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        depth = int(match[1])
        blocks, rest = divmod(depth - 2, 6)
        if depth >= 8 and rest == 0 and depth <= DEEPEST:
            return Architecture(name, self, "basic", (blocks,) * 3)
        nearest = min(max(round((depth - 2) / 6), 1), (DEEPEST - 2) // 6) * 6 + 2
        raise UserError(
            f"unknown architecture {name!r}: depths of CIFAR ResNets are 6n+2, at least 8 and at most {DEEPEST}; "
            f"nearest is 'resnet{nearest}_cifar'"
        )

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """Images of any size."""
        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(3, WIDTHS[0], kernel_size=3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(WIDTHS[0]),
            relu=nn.ReLU(inplace=True),
        )
        inputs = (WIDTHS[0], *WIDTHS)
        for stage, (width, blocks) in enumerate(zip(WIDTHS, architecture.units, strict=True)):
            layers[f"layer{stage + 1}"] = _stage(inputs[stage], width, blocks, stride=2 if stage else 1)
        layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(WIDTHS[2], num_classes)}
        return nn.Sequential(layers)

    def unit_prefixes(self, architecture: Architecture, stage: int, unit: int) -> tuple[str, ...]:
        """A residual block."""
        return (f"layer{stage + 1}.{unit}",)

    def classifier(self, architecture: Architecture) -> str:
        """Torchvision's name."""
        return "fc.weight"

    def image_size(self, architecture: Architecture, weights: "Mapping[str, Tensor]") -> int | None:
        """No shape depends on it."""
        return None


def _stage(width_in: int, width: int, blocks: int, stride: int) -> "nn.Sequential":
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or width_in != width:
        shortcut = nn.Sequential(
            nn.Conv2d(width_in, width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width)
        )
    first = BasicBlock(width_in, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))


families.add(CifarResNet())
