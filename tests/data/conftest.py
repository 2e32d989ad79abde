"""Small datasets on disk that several tests read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from elth_dist.data.digits import write_digits

settings.register_profile("data", deadline=None)  # the machine may be busy
settings.load_profile("data")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The digits tree (train/ and val/)."""
    return write_digits(tmp_path_factory.mktemp("digits"), 16)


def smooth_image(width: int, height: int, seed: int) -> Image.Image:
    """A colourful picture of low frequencies, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


SIZES = [(300, 260), (257, 400), (640, 331), (256, 256), (431, 500), (90, 70)]


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Two classes of generated JPEGs of many shapes (portrait, landscape, odd, square, tiny), below train/ and val/."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for number, (width, height) in enumerate(SIZES):
            folder = root / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            smooth_image(width, height, number).save(folder / f"{'x' * number}{number}.jpg", quality=92)
    return root
