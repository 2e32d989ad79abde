"""A dataset from outside the package, in one file: drawn circles, squares and crosses."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from elth_dist import registry
from elth_dist.data import InMemory


@registry.datasets.add
class Shapes(InMemory):
    """Circles, squares and crosses of random size and place."""

    preset: ClassVar = {"image_size": 16, "pad": 2, "mean": (0.25, 0.25, 0.25), "std": (0.4, 0.4, 0.4)}

    name: Literal["shapes"] = "shapes"
    count: int = Field(default=620, description="number of images")

    def images(self):
        """Four of five are for training."""
        random = np.random.default_rng(0)
        labels = np.arange(self.count) % 3
        y, x = np.mgrid[:16, :16][:, None] - random.uniform(6, 9, (2, self.count, 1, 1))
        r = random.uniform(3, 6, (self.count, 1, 1))
        drawn = np.stack([x**2 + y**2 < r**2, np.maximum(abs(x), abs(y)) < r, np.minimum(abs(x), abs(y)) < r / 3])
        grey = drawn[labels, np.arange(self.count)] * random.integers(100, 256, (self.count, 1, 1))
        pixels = np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)
        cut = self.count * 4 // 5
        return (pixels[:cut], labels[:cut]), (pixels[cut:], labels[cut:])
