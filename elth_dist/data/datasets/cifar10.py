"""CIFAR-10, from its python batches or as a class-per-folder tree.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from elth_dist import registry
from elth_dist.data.python_batches import PythonBatches


@registry.datasets.add
class Cifar10(PythonBatches):
    """CIFAR-10: `root` holds cifar-10-batches-py (or is that folder), or train/ and val/ with a folder per class."""

    preset: ClassVar = {
        "loader": "resident",
        "image_size": 32,
        "augment": "pad_crop",
        "pad": 4,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
    }
    label = "CIFAR-10"
    batches = "cifar-10-batches-py"
    published = (50_000, 10)

    name: Literal["cifar10"] = "cifar10"

    @staticmethod
    def read(parent: Path, *, train: bool) -> Any:
        from torchvision.datasets import CIFAR10

        return CIFAR10(str(parent), train=train, download=False)
