"""CIFAR-100, from its python batches or as a class-per-folder tree.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from elth_dist import registry
from elth_dist.data.python_batches import PythonBatches


@registry.datasets.add
class Cifar100(PythonBatches):
    """CIFAR-100: `root` holds cifar-100-python (or is that folder), or train/ and val/ with a folder per class."""

    preset: ClassVar = {
        "loader": "resident",
        "image_size": 32,
        "augment": "pad_crop",
        "pad": 4,
        "mean": (0.5071, 0.4865, 0.4409),
        "std": (0.2673, 0.2564, 0.2762),
    }
    label = "CIFAR-100"
    batches = "cifar-100-python"
    published = (50_000, 100)

    name: Literal["cifar100"] = "cifar100"

    @staticmethod
    def read(parent: Path, *, train: bool) -> Any:
        from torchvision.datasets import CIFAR100

        return CIFAR100(str(parent), train=train, download=False)
