"""Conv-2, Conv-4 and Conv-6 for CIFAR-10: small VGGs without BatchNorm.

Source: J. Frankle and M. Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, figure 2.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

from elth_dist.errors import UserError
from elth_dist.models.family import Architecture, Family, Published
from elth_dist.registry import families

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (64, 128, 256)
_PAIRS = {"conv2": 1, "conv4": 2, "conv6": 3}
_HIDDEN = 256


class Conv(Family):
    """Pairs of 3 x 3 convolutions of 64, 128 and 256 channels, a max-pool after each pair; then 256, 256, classes.

    ReLU follows each layer but the classifier. 4.3 M, 2.4 M and 2.3 M weights at 32 px; the paper prints 1.7 M for
    Conv-6, which does not follow from the layers that it lists. All weights are pruned, as in the paper (with a rate of
    its own for convolutions and classifier there). Each pair has a width of its own, so tickets cannot move.
    """

    name = "conv"
    names = tuple(_PAIRS)
    published = Published(32, 10)

    def architecture(self, name: str) -> Architecture | None:
        """One of `names`."""
        return Architecture(name, self) if name in _PAIRS else None

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """Images of 2, 4 or 8 px and more."""
        from torch import nn

        pairs = _PAIRS[architecture.name]
        side = image_size >> pairs
        if side == 0:
            raise UserError(
                f"{architecture.name}: images of {image_size} px are too small; valid data.image_size is {2**pairs} "
                "or more"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width_in = 3
        for number in range(2 * pairs):
            width = WIDTHS[number // 2]
            layers[f"conv{number + 1}"] = nn.Conv2d(width_in, width, kernel_size=3, padding=1)
            layers[f"relu{number + 1}"] = nn.ReLU()
            if number % 2:
                layers[f"pool{number // 2 + 1}"] = nn.MaxPool2d(2)
            width_in = width
        layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(width_in * side**2, _HIDDEN), "relu7": nn.ReLU()}
        layers |= {"fc2": nn.Linear(_HIDDEN, _HIDDEN), "relu8": nn.ReLU(), "fc": nn.Linear(_HIDDEN, num_classes)}
        return nn.Sequential(layers)

    def classifier(self, architecture: Architecture) -> str:
        """As in the ResNets."""
        return "fc.weight"


families.add(Conv())
