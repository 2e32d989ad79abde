"""Multilayer perceptrons for grey images, with hidden layers of one width, between which tickets move.

E-LTH replicates and drops hidden layers of MLPs on MNIST. Its widths and depths are not known to us; those suggested
here are inferred from LeNet-300-100. As in its code (and open_lth's), the classifier is not pruned.
"""

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from elth_dist.models.family import Architecture, Family, Published
from elth_dist.registry import families

if TYPE_CHECKING:
    from torch import nn

_NAME = re.compile(r"mlp_([1-9]\d{0,3})x([1-9]\d?)", re.ASCII)


class MLP(Family):
    """mlp_300x4: four hidden layers of 300, each followed by ReLU.

    Unit: a hidden layer; all of them are one stage. The first one, which reads the pixels, is invariant.
    """

    name = "mlp"
    names = ("mlp_300x2", "mlp_300x3", "mlp_300x5")
    form = "mlp_WIDTHxLAYERS"
    published = Published(28, 10)

    def architecture(self, name: str) -> Architecture | None:
        """mlp_{width}x{hidden layers}: 1 to 9999, 1 to 99."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        return Architecture(name, self, f"{match[1]}-wide layer", (int(match[2]),), ("fc.weight",))

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """The mean of the channels is the network's input."""
        from torch import nn

        from elth_dist.models.grey import Grey

        width = _width(architecture.name)
        layers: OrderedDict[str, nn.Module] = OrderedDict(grey=Grey(), flatten=nn.Flatten())
        for number in range(architecture.units[0]):
            layers[f"fc{number + 1}"] = nn.Linear(width if number else image_size**2, width)
            layers[f"relu{number + 1}"] = nn.ReLU()
        layers["fc"] = nn.Linear(width, num_classes)
        return nn.Sequential(layers)

    def unit_prefixes(self, architecture: Architecture, stage: int, unit: int) -> tuple[str, ...]:
        """A hidden layer."""
        return (f"fc{unit + 1}",)

    def classifier(self, architecture: Architecture) -> str:
        """As in the ResNets."""
        return "fc.weight"


def _width(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return int(match[1])


families.add(MLP())
