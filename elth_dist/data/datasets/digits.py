"""The embedded dataset: scikit-learn's 1,797 scans of handwritten digits, as a class-per-folder tree of JPEGs.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(its test part, 8 x 8 pixels of 17 grey levels).
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from PIL import Image

from elth_dist import registry
from elth_dist.data.options import DataOptions
from elth_dist.data.tree import open_tree
from elth_dist.errors import UserError
from elth_dist.runtime.files import reason, whole_folder

if TYPE_CHECKING:
    import torch

    from elth_dist.data.protocol import Dataset
    from elth_dist.runtime.ranks import Ranks

#: Every fifth scan of each class is for validation.
VAL_EVERY = 5
#: Number of scans for training.
TRAIN_SIZE = 1442


@registry.datasets.add
class Digits(DataOptions):
    """scikit-learn's scans of handwritten digits, which come with the package and are written as JPEGs on first use."""

    # No flip: a mirrored digit is another character. Mean and deviation of the training scans at 16 px.
    preset: ClassVar = {
        "loader": "dali",
        "image_size": 16,
        "augment": "pad_crop",
        "pad": 2,
        "flip": False,
        "mean": (0.310, 0.310, 0.310),
        "std": (0.347, 0.347, 0.347),
    }

    name: Literal["digits"] = "digits"

    def known_size(self) -> tuple[int, int]:
        """Return the numbers of the scans."""
        return TRAIN_SIZE, 10

    def size(self) -> tuple[int, int]:
        """Return the numbers of the scans."""
        return self.known_size()

    def check(self, *, elsewhere: bool = False) -> None:
        """Refuse a user's folder, to which nothing may be written. UserError."""
        super().check(elsewhere=elsewhere)
        if self.root is not None:
            raise UserError(
                f"data.root: {self.root} is not read for 'digits', which come with the package; leave it out, "
                "or pass --data.name folder"
            )

    def open(self, ranks: "Ranks", default_root: Path, dtype: "torch.dtype") -> "Dataset":
        """Write the scans below `default_root` if they are not there yet, and open them as a tree of images."""
        folder = digits_folder(default_root, self.image_size)
        with ranks.together():
            if ranks.is_main:
                try:
                    write_digits(default_root, self.image_size)
                except OSError as error:
                    raise UserError(f"run.dir: cannot write the digits to {folder}: {reason(error)}") from error
        not_kept = self.model_copy(update={"cache": None})  # they are decoded in less than a second
        return open_tree(not_kept, folder, ranks, dtype)


def digits_folder(root: Path, size: int) -> Path:
    """Return the folder of the scans of `size` pixels below `root`."""
    return root / f"digits-{size}px"


def write_digits(root: Path, size: int) -> Path:
    """Write the scans once below `root` and return the folder that holds train/ and val/.

    The folder appears whole or not at all; an existing one is not changed.

    Args:
        root: made if missing.
        size: height and width in pixels to scale the 8 x 8 scans to.
    """
    target = digits_folder(root, size)
    if target.is_dir():
        return target
    from sklearn.datasets import load_digits  # takes seconds to import, and is rarely needed

    root.mkdir(parents=True, exist_ok=True)
    with whole_folder(target) as scratch:
        scans = load_digits()
        seen = np.zeros(10, dtype=int)
        for number, (scan, label) in enumerate(zip(scans.images, scans.target, strict=True)):
            split = "val" if seen[label] % VAL_EVERY == VAL_EVERY - 1 else "train"
            seen[label] += 1
            folder = scratch / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(np.rint(scan * (255 / 16)).astype(np.uint8))
            image.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.jpg", quality=95)
    return target
