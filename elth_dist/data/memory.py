"""Small datasets made by a few lines of Python: images in memory, served by the resident loader.

No torch is imported before one is opened.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from elth_dist.data.options import DataOptions, Loader
from elth_dist.errors import UserError

if TYPE_CHECKING:
    import torch

    from elth_dist.data.protocol import Dataset
    from elth_dist.runtime.ranks import Ranks

#: Pixels [N, S, S, 3] uint8 (R, G, B) and labels [N] of any integer type, 0 .. classes - 1.
Labelled = tuple[NDArray[np.uint8], NDArray[Any]]


class InMemory(DataOptions):
    """A dataset that returns all its images at once. A subclass needs a `name`, a `preset` and images().

    The preset sets `image_size`, and `mean` and `std` of the training images; the default of `augment` is `pad_crop`.
    """

    preset: ClassVar[Mapping[str, Any]] = {"loader": "resident", "augment": "pad_crop"}
    loaders: ClassVar[tuple[Loader, ...]] = ("resident",)

    @abstractmethod
    def images(self) -> tuple[Labelled, Labelled]:
        """Return the training and the validation images with their labels, equal on every rank and in every call."""

    def size(self) -> tuple[int, int]:
        """Count (training images, classes). UserError if images() breaks its contract."""
        (_, labels), _ = _checked(self)
        return len(labels), int(labels.max()) + 1

    def open(self, ranks: "Ranks", default_root: Path, dtype: "torch.dtype") -> "Dataset":
        """Call images() on every rank.

        Raises:
            UserError: images() breaks its contract, or gives images of another size than `image_size`.
            DisagreementError: images() differs between ranks.
        """
        import torch

        from elth_dist.data.resident import Images, ResidentData

        with ranks.together():
            splits = _checked(self)
            size = splits[0][0].shape[1]
            if size != self.image_size:
                raise UserError(f"data.image_size: {self.image_size}, but the images of {self.name!r} are of {size} px")
        train, val = (
            Images(torch.tensor(pixels), torch.tensor(labels, dtype=torch.int64)) for pixels, labels in splits
        )
        hashes = {"training images": int(train.fingerprint, 16), "validation images": int(val.fingerprint, 16)}
        ranks.require_equal(f"images() of {self.name!r}", hashes)
        return ResidentData(self, ranks, dtype, train, val, num_classes=int(splits[0][1].max()) + 1)


def _checked(dataset: InMemory) -> tuple[Labelled, Labelled]:
    """Call images() and check its contract; the UserError names the violation."""
    splits = dataset.images()
    (train, train_labels), (val, val_labels) = splits
    where = f"data.name: images() of {dataset.name!r}"
    for split, pixels, labels in (("training", train, train_labels), ("validation", val, val_labels)):
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or pixels.shape[3] != 3:
            raise UserError(f"{where} must give {split} images [N, S, S, 3] uint8, not {_form(pixels)}")
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != pixels.shape[:1]:
            raise UserError(f"{where} must give {len(pixels)} {split} labels of an integer type, not {_form(labels)}")
        if not len(labels):
            raise UserError(f"{where} gives no {split} image")
    if train.shape[1] != val.shape[1]:
        raise UserError(
            f"{where} gives training images of {train.shape[1]} px, but validation images of {val.shape[1]} px"
        )
    classes = np.unique(train_labels)
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        raise UserError(
            f"{where} must give training labels 0 .. classes - 1, each at least once, and two classes or more"
        )
    if val_labels.min() < 0 or val_labels.max() >= len(classes):
        raise UserError(f"{where} gives validation labels beyond 0 .. {len(classes) - 1}, the training labels")
    return splits


def _form(array: NDArray[Any]) -> str:
    return f"{list(array.shape)} {array.dtype}"
