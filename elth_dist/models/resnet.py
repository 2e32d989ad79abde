"""ResNet-18/26/34/50/101/152 for ImageNet: torchvision's network, so that keys and blocks are torchvision's."""

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from elth_dist.models.families import Architecture


def imagenet_resnet(architecture: Architecture, num_classes: int) -> nn.Module:
    """Images [B, 3, H, W] to logits [B, num_classes]; 26 is E-LTH's BasicBlock network, 50 and deeper are v1.5."""
    block = BasicBlock if architecture.block == "basic" else Bottleneck
    network: nn.Module = ResNet(block, list(architecture.units), num_classes=num_classes)
    return network
