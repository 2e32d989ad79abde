"""MNIST, from its own files.

Source: Y. LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998; the format is described on its
site: two zero bytes, the type of the numbers (8: unsigned bytes), the number of dimensions, each dimension as a
big-endian integer of 4 bytes, and the numbers.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from elth_dist import registry
from elth_dist.data.memory import InMemory, Labelled
from elth_dist.errors import UserError
from elth_dist.runtime.files import reason

_UNSIGNED_BYTES = 8


@registry.datasets.add
class Mnist(InMemory):
    """MNIST: `root` holds MNIST/raw as torchvision leaves it (or is that folder), the files compressed or not.

    Grey: all three channels are equal. Any data in MNIST's format and under its names is read, such as Fashion-MNIST.
    """

    # No flip: a mirrored digit is another character.
    preset: ClassVar = {
        "image_size": 28,
        "augment": "none",
        "flip": False,
        "mean": (0.1307, 0.1307, 0.1307),
        "std": (0.3081, 0.3081, 0.3081),
    }

    name: Literal["mnist"] = "mnist"

    def known_size(self) -> tuple[int, int] | None:
        """Return the published numbers if no folder is given; else None, as its files must be read."""
        return (60_000, 10) if self.root is None else None

    def size(self) -> tuple[int, int]:
        """Count the training labels. UserError if the files are missing or damaged."""
        known = self.known_size()
        if known is not None:
            return known
        labels = _read(self._file("train-labels-idx1-ubyte"), 1)
        return len(labels), int(labels.max(initial=0)) + 1

    def check(self, *, elsewhere: bool = False) -> None:
        """Check that the four files are there. UserError."""
        super().check(elsewhere=elsewhere)
        if self.root is None:
            raise UserError("data.root: 'mnist' needs the folder that holds MNIST/raw; pass --data.root FOLDER")
        if not elsewhere:
            for split in ("train", "t10k"):
                for part in ("images-idx3-ubyte", "labels-idx1-ubyte"):
                    self._file(f"{split}-{part}")

    def images(self) -> tuple[Labelled, Labelled]:
        """Read the four files; the channel is repeated three times. UserError if one is missing or damaged."""
        return self._split("train"), self._split("t10k")

    def _split(self, split: str) -> Labelled:
        pixels = _read(self._file(f"{split}-images-idx3-ubyte"), 3)
        labels = _read(self._file(f"{split}-labels-idx1-ubyte"), 1)
        return np.repeat(pixels[..., None], 3, axis=3), labels

    def _file(self, name: str) -> Path:
        assert self.root is not None
        folders = [self.root / "MNIST" / "raw", self.root / "raw", self.root]
        for folder in folders:
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
        raise UserError(
            f"data.root: no {name} (or {name}.gz) in {folders[0]} or {self.root}; MNIST is not downloaded here"
        )


def _read(path: Path, dimensions: int) -> NDArray[Any]:
    """Read an array of unsigned bytes with so many dimensions. UserError if `path` holds anything else."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except OSError as error:
        raise UserError(f"data.root: {path} cannot be read: {reason(error)}") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"data.root: {path} is damaged ({error})") from error
    start = 4 + 4 * dimensions
    header = struct.pack(">HBB", 0, _UNSIGNED_BYTES, dimensions)
    if len(content) < start or content[:4] != header:
        raise UserError(
            f"data.root: {path} is no file of unsigned bytes of {dimensions} dimension(s) in MNIST's format"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise UserError(
            f"data.root: {path} is damaged: its header says {list(shape)}, but {len(content) - start} bytes follow"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
