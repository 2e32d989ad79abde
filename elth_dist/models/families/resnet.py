"""ResNet-18/26/34/50/101/152 for ImageNet: torchvision's network, so that keys and blocks are torchvision's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from elth_dist.errors import UserError
from elth_dist.models.family import Architecture, DepthShare, Family, Published
from elth_dist.registry import families

if TYPE_CHECKING:
    from torch import Tensor, nn

_BASIC = {"resnet18": (2, 2, 2, 2), "resnet26": (2, 3, 4, 3), "resnet34": (3, 4, 6, 3)}
_BOTTLENECK = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}


class ResNet(Family):
    """26 is E-LTH's BasicBlock network; 50 and deeper have bottlenecks and are v1.5 (stride in the 3x3 conv)."""

    name = "resnet"
    names = (*_BASIC, *_BOTTLENECK)
    published = Published(224, 1000)

    def architecture(self, name: str) -> Architecture | None:
        """One of `names`."""
        if name in _BASIC:
            return Architecture(name, self, "basic", _BASIC[name])
        return Architecture(name, self, "bottleneck", _BOTTLENECK[name]) if name in _BOTTLENECK else None

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """Images of any size."""
        from torchvision.models import resnet

        block = resnet.BasicBlock if architecture.name in _BASIC else resnet.Bottleneck
        network: nn.Module = resnet.ResNet(block, list(architecture.units), num_classes=num_classes)
        return network

    def unit_prefixes(self, architecture: Architecture, stage: int, unit: int) -> tuple[str, ...]:
        """A residual block."""
        return (f"layer{stage + 1}.{unit}",)

    def classifier(self, architecture: Architecture) -> str:
        """Torchvision's name."""
        return "fc.weight"

    def image_size(self, architecture: Architecture, weights: "Mapping[str, Tensor]") -> int | None:
        """No shape depends on it."""
        return None

    def depth_share(self, architecture: Architecture) -> DepthShare | None:
        """BasicBlock networks in proportion to ResNet-34."""
        if architecture.name not in _BASIC:
            raise UserError(f"elth_paper: is defined for resnet18, resnet26 and resnet34, not for {architecture.name}")
        return DepthShare("resnet34", int(architecture.name.removeprefix("resnet")) / 34)


families.add(ResNet())
