"""CIFAR-10, from its python batches or as a class-per-folder tree.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from elth_dist import registry
from elth_dist.data.catalog import reading
from elth_dist.data.tree import ImageTree
from elth_dist.errors import UserError

if TYPE_CHECKING:
    import torch

    from elth_dist.data.protocol import Dataset
    from elth_dist.data.resident import Images
    from elth_dist.runtime.ranks import Ranks

_BATCHES = "cifar-10-batches-py"


@registry.datasets.add
class Cifar10(ImageTree):
    """CIFAR-10: `root` holds cifar-10-batches-py (or is that folder), or train/ and val/ with a folder per class."""

    preset: ClassVar = {
        "loader": "resident",
        "image_size": 32,
        "augment": "pad_crop",
        "pad": 4,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
    }
    published = (50_000, 10)

    name: Literal["cifar10"] = "cifar10"

    def known_size(self) -> tuple[int, int] | None:
        """Return the published numbers for the python batches, which must be the published files."""
        return self.published if self._batches() is not None else super().known_size()

    def check(self, *, elsewhere: bool = False) -> None:
        """Check the tree, or that the loader can read the python batches. UserError."""
        if elsewhere or self._batches() is None:
            super().check(elsewhere=elsewhere)
        elif self.loader != "resident":
            raise UserError(
                f"data.loader: {self.loader!r} reads image files, but {self.root} holds python batches; use 'resident'"
            )

    def open(self, ranks: "Ranks", default_root: Path, dtype: "torch.dtype") -> "Dataset":
        """Read the python batches if there are any, else the tree."""
        from elth_dist.data.resident import ResidentData

        parent = self._batches()
        if parent is None:
            return super().open(ranks, default_root, dtype)
        with ranks.together():
            train, val = read_python_batches(parent)
            size = train.pixels.shape[1]
            if self.image_size != size:
                raise UserError(
                    f"data.image_size: {self.image_size}, but CIFAR-10's python batches hold images of {size} px"
                )
        return ResidentData(self, ranks, dtype, train, val, num_classes=self.published[1])

    def _batches(self) -> Path | None:
        """Return the folder that holds cifar-10-batches-py: `root`, or its parent if `root` is that folder."""
        if self.root is None:
            return None
        parent = self.root.absolute().parent if self.root.name == _BATCHES else self.root
        with reading():
            return parent if (parent / _BATCHES).is_dir() else None


def read_python_batches(parent: Path) -> "tuple[Images, Images]":
    """Read CIFAR-10's train and test images from torchvision's cifar-10-batches-py below `parent`.

    The files are pickles, which torchvision opens only after checking their published MD5.

    Raises:
        UserError: a file is missing or is not the published one.
    """
    import torch
    from torchvision.datasets import CIFAR10

    from elth_dist.data.resident import Images

    splits = []
    for train in (True, False):
        try:
            data = CIFAR10(str(parent), train=train, download=False)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"data.root: {parent / _BATCHES} is incomplete or not the published CIFAR-10 ({error})"
            ) from error
        splits.append(Images(torch.from_numpy(data.data), torch.tensor(data.targets, dtype=torch.int64)))
    return splits[0], splits[1]
