"""The embedded dataset: scikit-learn's 1,797 scans of handwritten digits, as a class-per-folder tree of JPEGs.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(its test part, 8 x 8 pixels of 17 grey levels).
"""

from pathlib import Path

import numpy as np
from PIL import Image

from elth_dist.runtime.files import whole_folder

#: Every fifth scan of each class is for validation.
VAL_EVERY = 5
#: How many of the scans are left for training.
TRAIN_SIZE = 1442


def write_digits(root: Path, size: int) -> Path:
    """Write the scans once below `root` and return the folder that holds train/ and val/.

    The folder appears whole or not at all; one that is already there is left as it is.

    Args:
        root: made if missing.
        size: height and width in pixels to scale the 8 x 8 scans to.
    """
    target = root / f"digits-{size}px"
    if target.is_dir():
        return target
    from sklearn.datasets import load_digits  # seconds to import, and only ever needed once

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
