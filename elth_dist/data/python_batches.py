"""CIFAR datasets: torchvision's python batches, or a class-per-folder tree.

No torch is imported before one is opened.
"""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from elth_dist.data.catalog import reading
from elth_dist.data.tree import ImageTree
from elth_dist.errors import UserError

if TYPE_CHECKING:
    import torch

    from elth_dist.data.protocol import Dataset
    from elth_dist.data.resident import Images
    from elth_dist.runtime.ranks import Ranks


class PythonBatches(ImageTree):
    """A CIFAR dataset. A subclass has its `preset`, its numbers (`published`) and the class variables below."""

    #: The dataset's name for people.
    label: ClassVar[str]
    #: The folder of the python batches.
    batches: ClassVar[str]
    published: ClassVar[tuple[int, int]]

    @staticmethod
    @abstractmethod
    def read(parent: Path, *, train: bool) -> Any:
        """Return torchvision's dataset: `data` [N, 32, 32, 3] uint8 and `targets`. RuntimeError or OSError."""

    def known_size(self) -> tuple[int, int] | None:
        """Return the published numbers for the python batches, which must be the published files."""
        return self.published if self._parent() is not None else super().known_size()

    def check(self, *, elsewhere: bool = False) -> None:
        """Check the tree, or that the loader can read the python batches. UserError."""
        if elsewhere or self._parent() is None:
            super().check(elsewhere=elsewhere)
        elif self.loader != "resident":
            raise UserError(
                f"data.loader: {self.loader!r} reads image files, but {self.root} holds python batches; use 'resident'"
            )

    def open(self, ranks: "Ranks", default_root: Path, dtype: "torch.dtype") -> "Dataset":
        """Read the python batches if there are any, else the tree."""
        from elth_dist.data.resident import ResidentData

        parent = self._parent()
        if parent is None:
            return super().open(ranks, default_root, dtype)
        with ranks.together():
            train, val = self._images(parent)
            size = train.pixels.shape[1]
            if self.image_size != size:
                raise UserError(
                    f"data.image_size: {self.image_size}, but {self.label}'s python batches hold images of {size} px; "
                    "as image files below train/ and val/ they can be scaled"
                )
        return ResidentData(self, ranks, dtype, train, val, num_classes=self.published[1])

    def _parent(self) -> Path | None:
        """Return the folder that holds the folder of the python batches: `root`, or its parent if `root` is that."""
        if self.root is None:
            return None
        parent = self.root.absolute().parent if self.root.name == self.batches else self.root
        with reading():
            return parent if (parent / self.batches).is_dir() else None

    def _images(self, parent: Path) -> "tuple[Images, Images]":
        """Read the training and the test images.

        The files are pickles, which torchvision opens only after checking their published MD5.

        Raises:
            UserError: a file is missing or is not the published one.
        """
        import torch

        from elth_dist.data.resident import Images

        splits = []
        for train in (True, False):
            try:
                data = self.read(parent, train=train)
            except (RuntimeError, OSError) as error:
                raise UserError(
                    f"data.root: {parent / self.batches} is incomplete or not the published {self.label} ({error})"
                ) from error
            splits.append(Images(torch.from_numpy(data.data), torch.tensor(data.targets, dtype=torch.int64)))
        return splits[0], splits[1]
