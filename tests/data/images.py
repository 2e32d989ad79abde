"""Generated pictures."""

from pathlib import Path

import numpy as np
from PIL import Image


def smooth_image(width: int, height: int, seed: int) -> Image.Image:
    """A colourful picture of low frequencies, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


#: Landscape, portrait, square, odd and tiny.
SIZES = [(300, 260), (257, 400), (640, 331), (256, 256), (431, 500), (90, 70)]


def write_photos(root: Path) -> None:
    """The same JPEGs of two classes below train/ and val/, one of each size."""
    for split in ("train", "val"):
        for number, (width, height) in enumerate(SIZES):
            folder = root / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            smooth_image(width, height, number).save(folder / f"{'x' * number}{number}.jpg", quality=92)


def write_small_photos(root: Path) -> Path:
    """Six JPEGs of two classes, all different, below train/ and six below val/."""
    for split, first in (("train", 0), ("val", 6)):
        for number in range(first, first + 6):
            folder = root / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            smooth_image(20, 16, number).save(folder / f"{number}.jpg")
    return root
