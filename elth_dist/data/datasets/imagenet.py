"""ImageNet-1k as a class-per-folder tree."""

from typing import ClassVar, Literal

from elth_dist import registry
from elth_dist.data.options import IMAGENET_CHANNELS
from elth_dist.data.tree import ImageTree


@registry.datasets.add
class ImageNet(ImageTree):
    """ImageNet-1k: train/ and val/ below `root`, a folder per class."""

    preset: ClassVar = {
        "loader": "dali",
        "image_size": 224,
        "resize": 256,
        "augment": "resized_crop",
        **IMAGENET_CHANNELS,
    }
    published = (1_281_167, 1000)

    name: Literal["imagenet"] = "imagenet"
