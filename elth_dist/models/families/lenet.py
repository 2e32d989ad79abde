"""LeNet-300-100 and LeNet-5-Caffe for grey images, as in the studies of pruning on MNIST.

Sources: J. Frankle and M. Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, figure 2 (LeNet-300-100); N. Lee et al.,
"SNIP", ICLR 2019, table 1 (LeNet-5-Caffe, which is examples/mnist of Caffe).
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from elth_dist.errors import UserError
from elth_dist.models.family import Architecture, Family, Published
from elth_dist.registry import families

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Channels of LeNet-5-Caffe's two convolutions.
CHANNELS = (20, 50)
#: The smallest images that LeNet-5-Caffe reduces to one position or more.
_SMALLEST = 16


class LeNet(Family):
    """Two hidden layers of 300 and 100; or two 5 x 5 convolutions of 20 and 50 channels and a hidden layer of 500.

    266,610 and 431,080 parameters at 28 px and 10 classes. ReLU follows each layer (in Caffe's own file only the hidden
    layer), a max-pool each convolution. All weights are pruned, the classifier's too. No two layers have equal shapes,
    so tickets cannot move.
    """

    name = "lenet"
    names = ("lenet_300_100", "lenet5_caffe")
    published = Published(28, 10)

    def architecture(self, name: str) -> Architecture | None:
        """One of `names`."""
        return Architecture(name, self) if name in self.names else None

    def build(self, architecture: Architecture, num_classes: int, image_size: int) -> "nn.Module":
        """The mean of the channels is the network's input."""
        from torch import nn

        from elth_dist.models.grey import Grey

        layers: OrderedDict[str, nn.Module] = OrderedDict(grey=Grey())
        if architecture.name == "lenet_300_100":
            layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(image_size**2, 300), "relu1": nn.ReLU()}
            layers |= {"fc2": nn.Linear(300, 100), "relu2": nn.ReLU(), "fc": nn.Linear(100, num_classes)}
            return nn.Sequential(layers)
        if image_size < _SMALLEST:
            raise UserError(
                f"{architecture.name}: images of {image_size} px are too small; valid data.image_size is {_SMALLEST} "
                "or more"
            )
        for number, (width_in, width) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), start=1):
            layers[f"conv{number}"] = nn.Conv2d(width_in, width, kernel_size=5)
            layers |= {f"relu{number}": nn.ReLU(), f"pool{number}": nn.MaxPool2d(2)}
        features = CHANNELS[-1] * _side(image_size) ** 2
        layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(features, 500), "relu3": nn.ReLU()}
        layers["fc"] = nn.Linear(500, num_classes)
        return nn.Sequential(layers)

    def classifier(self, architecture: Architecture) -> str:
        """As in the ResNets."""
        return "fc.weight"

    def image_size(self, architecture: Architecture, weights: "Mapping[str, Tensor]") -> int | None:
        """From the first linear layer; of the sizes with equal shapes, the smallest."""
        first = weights.get("fc1.weight")
        if first is None or first.ndim != 2:
            return None
        if architecture.name == "lenet_300_100":
            side = math.isqrt(first.shape[1])
            return side if side**2 == first.shape[1] else None
        side = math.isqrt(first.shape[1] // CHANNELS[-1])
        size = 4 * side + 12
        return size if CHANNELS[-1] * side**2 == first.shape[1] and _side(size) == side > 0 else None


def _side(image_size: int) -> int:
    """Positions per side after two valid 5 x 5 convolutions, each with a max-pool of 2."""
    return ((image_size - 4) // 2 - 4) // 2


families.add(LeNet())
