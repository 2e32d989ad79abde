"""VGG-13/16/19 with BatchNorm and one linear classifier, and VGG-13 with several, as used on CIFAR-10 in E-LTH."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from elth_dist.models.family import Architecture, Family, Published
from elth_dist.registry import families

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from elth_dist.models.options import Init

WIDTHS = (64, 128, 256, 512, 512)
_UNITS = {"vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
#: VGG-13 with so many linear layers, the classifier included.
_LINEAR = {"vgg13_fc2": 2, "vgg13_fc3": 3, "vgg13_fc5": 5}


class VGG(Family):
    """Images of at least 16 px. `features` has the keys of torchvision's vggNN_bn.

    Max-pools stand between the stages; after the last one the positions are averaged (2 x 2 of them at 32 px) in front
    of `fc`, which is not pruned.

    vgg13_fc2, _fc3 and _fc5 (E-LTH, table 5) have 1, 2 or 4 hidden linear layers in front of it, in `classifier`: 512
    wide with ReLU, without dropout, and pruned, as in the authors' code. They are a sixth stage, whose invariant unit 0
    is the pooled features (it has no tensors), since the first hidden layer has the shape of the others: any of them
    can be copied, and VGG-13 with two linear layers can be stretched to three.
    """

    name = "vgg"
    names = (*_UNITS, *_LINEAR)
    published = Published(32, 10)

    def architecture(self, name: str) -> Architecture | None:
        """One of `names`."""
        if name in _LINEAR:
            return Architecture(name, self, "conv or linear", (*_UNITS["vgg13"], _LINEAR[name]), ("fc.weight",))
        return Architecture(name, self, "conv", _UNITS[name], ("fc.weight",)) if name in _UNITS else None

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """Any image size gives the same network."""
        from torch import nn
        from torchvision.models.vgg import make_layers

        widths: list[int | str] = []
        for width, units in zip(WIDTHS, architecture.units, strict=False):
            widths += ["M"] if widths else []
            widths += [width] * units
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            features=make_layers(widths, batch_norm=True),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
        )
        hidden = _LINEAR.get(architecture.name, 1) - 1
        if hidden:
            pairs = ((nn.Linear(WIDTHS[-1], WIDTHS[-1]), nn.ReLU()) for _ in range(hidden))
            layers["classifier"] = nn.Sequential(*(module for pair in pairs for module in pair))
        layers["fc"] = nn.Linear(WIDTHS[-1], num_classes)
        return nn.Sequential(layers)

    def initialise(self, model: "nn.Module", init: "Init", generator: "torch.Generator") -> None:
        """Torchvision's VGGs draw linear weights from a normal distribution of standard deviation 0.01."""
        from elth_dist.models import initialise

        if init == "torchvision":
            initialise.torchvision(model, generator, linear=initialise.normal_linear)
        else:
            super().initialise(model, init, generator)

    def unit_prefixes(self, architecture: Architecture, stage: int, unit: int) -> tuple[str, ...]:
        """A convolution and its BatchNorm: of conv, BN, ReLU for each unit, and a max-pool after each stage.

        Of the sixth stage, a hidden linear layer: of linear, ReLU for each; unit 0 is in front of them.
        """
        if stage == len(WIDTHS):
            return (f"classifier.{2 * (unit - 1)}" if unit else "flatten",)
        conv = sum(3 * units + 1 for units in architecture.units[:stage]) + 3 * unit
        return f"features.{conv}", f"features.{conv + 1}"

    def classifier(self, architecture: Architecture) -> str:
        """As in the ResNets."""
        return "fc.weight"

    def image_size(self, architecture: Architecture, weights: "Mapping[str, Tensor]") -> int | None:
        """No shape depends on it."""
        return None


families.add(VGG())
