"""SVHN, the cropped digits (format 2), from its .mat files.

Source: Y. Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from elth_dist import registry
from elth_dist.data.memory import InMemory, Labelled
from elth_dist.errors import UserError


@registry.datasets.add
class Svhn(InMemory):
    """SVHN's cropped digits: `root` holds train_32x32.mat and test_32x32.mat. Label 10, the digit 0, becomes 0."""

    # No flip: a mirrored digit is another character. (E-LTH mirrors them: `flip: true`.)
    preset: ClassVar = {
        "image_size": 32,
        "pad": 4,
        "flip": False,
        "mean": (0.4377, 0.4438, 0.4728),
        "std": (0.1980, 0.2010, 0.1970),
    }

    name: Literal["svhn"] = "svhn"

    def known_size(self) -> tuple[int, int] | None:
        """Return the published numbers if no folder is given; else None, as its files must be read."""
        return (73_257, 10) if self.root is None else None

    def size(self) -> tuple[int, int]:
        """Count the training labels. UserError if the files are missing or damaged."""
        known = self.known_size()
        if known is not None:
            return known
        labels = _labels(*_load(self._file("train"), "y"))
        return len(labels), int(labels.max(initial=0)) + 1

    def check(self, *, elsewhere: bool = False) -> None:
        """Check that both files are there. UserError."""
        super().check(elsewhere=elsewhere)
        if self.root is None:
            raise UserError("data.root: 'svhn' needs the folder of train_32x32.mat; pass --data.root FOLDER")
        if not elsewhere:
            for split in ("train", "test"):
                self._file(split)

    def images(self) -> tuple[Labelled, Labelled]:
        """Read both files. UserError if one is missing or damaged."""
        return self._split("train"), self._split("test")

    def _split(self, split: str) -> Labelled:
        path = self._file(split)
        pixels, labels = _load(path, "X", "y")
        if pixels.ndim != 4:
            raise UserError(f"data.root: {path}: X is {list(pixels.shape)}, not [32, 32, 3, images]")
        return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), _labels(labels)

    def _file(self, split: str) -> Path:
        assert self.root is not None
        path = self.root / f"{split}_32x32.mat"
        if not path.is_file():
            raise UserError(f"data.root: no {path.name} in {self.root}; SVHN is not downloaded here")
        return path


def _labels(stored: NDArray[Any]) -> NDArray[np.int64]:
    """Convert labels [N, 1] of 1 .. 10, where 10 is the digit 0, to [N]."""
    labels = stored.reshape(-1).astype(np.int64)
    return np.where(labels == 10, 0, labels)


def _load(path: Path, *names: str) -> list[NDArray[Any]]:
    """Read numeric arrays of a .mat file. UserError if it has none of that name."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=names)
    except Exception as error:  # whatever scipy raises for a damaged file
        raise UserError(f"data.root: {path} cannot be read as a .mat file ({error})") from error
    for name in names:
        if name not in content or content[name].dtype.kind not in "iuf":
            raise UserError(f"data.root: {path} holds no numbers named {name}; SVHN's files hold X and y")
    return [content[name] for name in names]
