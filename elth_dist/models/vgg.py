"""VGG-13/16/19 with BatchNorm and one linear classifier, as used on CIFAR-10 in E-LTH."""

from typing import cast

from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from elth_dist.models.families import Architecture

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Images [B, 3, H, W], at least 16 px, to logits [B, num_classes].

    `features` has the keys of torchvision's vggNN_bn. Max-pools stand between the stages; after the last one the
    positions are averaged (2 x 2 of them at 32 px) in front of `fc`.
    """

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        layers: list[int | str] = []
        for width, units in zip(WIDTHS, architecture.units, strict=True):
            layers += ["M"] if layers else []
            layers += [width] * units
        self.features: nn.Sequential = make_layers(layers, batch_norm=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.fc(self.avgpool(self.features(images)).flatten(1)))
