"""A dataset from outside: gratings of ten orientations, made in memory.

    python -m elth_dist.train --plugins examples/dataset.py --config configs/quickstart.yaml --data.name gratings

Images come as bytes [N, S, S, 3] and labels [N]; order, augmentation, normalisation and the exact resume are the
resident loader's.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from elth_dist import InMemory, datasets
from elth_dist.data.memory import Labelled

CLASSES = 10


@datasets.add
class Gratings(InMemory):
    """Noisy gratings; the class is their orientation."""

    preset: ClassVar = {"image_size": 16, "pad": 2, "flip": False, "mean": (0.5, 0.5, 0.5), "std": (0.3, 0.3, 0.3)}

    name: Literal["gratings"] = "gratings"
    noise: float = Field(default=0.3, ge=0, le=1, description="standard deviation of the noise, of the full range")

    def images(self) -> tuple[Labelled, Labelled]:
        return self._draw(1000, seed=0), self._draw(300, seed=1)

    def _draw(self, count: int, seed: int) -> Labelled:
        random = np.random.default_rng(seed)
        labels: NDArray[np.int64] = np.arange(count) % CLASSES
        angle = (np.pi * labels / CLASSES)[:, None, None]
        phase = random.uniform(0, 2 * np.pi, (count, 1, 1))
        y, x = np.mgrid[: self.image_size, : self.image_size]
        wave = 0.5 + 0.3 * np.sin(1.2 * (np.cos(angle) * x + np.sin(angle) * y) + phase)
        noisy = wave[..., None] + random.normal(0, self.noise, (count, self.image_size, self.image_size, 3))
        return (255 * noisy.clip(0, 1)).astype(np.uint8), labels
