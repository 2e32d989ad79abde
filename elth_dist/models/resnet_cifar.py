"""CIFAR ResNets of depth 6n+2 (He et al. 2016, section 4.2), with 1x1-conv shortcuts as in E-LTH."""

from typing import cast

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from elth_dist.models.families import Architecture

WIDTHS = (16, 32, 64)


class CifarResNet(nn.Module):
    """Images [B, 3, H, W] (32 px as published) to logits [B, num_classes]; keys in torchvision's style."""

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], architecture.units[0], stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], architecture.units[1], stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], architecture.units[2], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return cast(Tensor, self.fc(self.avgpool(features).flatten(1)))


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or width_in != width:
        shortcut = nn.Sequential(
            nn.Conv2d(width_in, width, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(width)
        )
    first = BasicBlock(width_in, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))
