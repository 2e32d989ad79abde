"""A user's images as a class-per-folder tree."""

from typing import ClassVar, Literal

from elth_dist import registry
from elth_dist.data.options import IMAGENET_CHANNELS
from elth_dist.data.tree import ImageTree


@registry.datasets.add
class Folder(ImageTree):
    """Your own images: train/ and val/ (or test/) below `root`, a folder per class; read and augmented as ImageNet."""

    preset: ClassVar = {
        "loader": "dali",
        "image_size": 224,
        "resize": 256,
        "augment": "resized_crop",
        **IMAGENET_CHANNELS,
    }

    name: Literal["folder"] = "folder"
