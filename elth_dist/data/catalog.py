"""List and check a class-per-folder tree of images. No torch here."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elth_dist.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Split:
    """The images below one folder: class folders in sorted order, and in each its files in sorted order."""

    folder: Path
    files: dict[str, list[str]]  # class -> file names

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """[N]: the class of each image, as position among the sorted classes."""
        return np.repeat(np.arange(len(self.files)), [len(names) for names in self.files.values()])

    @cached_property
    def names(self) -> list[str]:
        """[N]: class/file of each image, below `folder`."""
        return [f"{cls}/{name}" for cls, names in self.files.items() for name in names]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Return the path of image `index`."""
        return self.folder / self.names[index]


@dataclass(frozen=True)
class Catalog:
    """Both splits of a dataset, with the same classes."""

    train: Split
    val: Split

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; labels are positions in this tuple."""
        return tuple(self.train.files)

    @cached_property
    def fingerprint(self) -> str:
        """Hash the names of all images, which a moved copy of the dataset keeps."""
        digest = hashlib.blake2b(digest_size=8)
        for split in (self.train, self.val):
            for name in split.names:
                digest.update(os.fsencode(name) + b"\0")
            digest.update(b"\1")
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON from which from_json() builds the same catalog on another rank."""
        return {
            split: {"folder": str(part.folder), "files": part.files}
            for split, part in (("train", self.train), ("val", self.val))
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Catalog":
        """Invert to_json()."""
        return cls(**{split: Split(Path(part["folder"]), part["files"]) for split, part in value.items()})


@contextmanager
def reading() -> Iterator[None]:
    """Turn an OSError below data.root into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"data.root: {error}") from error


def split_folders(root: Path) -> tuple[Path, Path]:
    """Return the folders of the training and validation images: train/, and val/ or else test/.

    Raises:
        UserError: names the missing folder.
    """
    if not root.is_dir():
        raise UserError(
            f"data.root: no folder {root}; it must hold train/ and val/ (or test/), one folder per class in each"
        )
    train = root / "train"
    if not train.is_dir():
        raise UserError(f"data.root: {root} has no train/; it must hold train/ and val/ (or test/)")
    for name in ("val", "test"):
        if (root / name).is_dir():
            return train, root / name
    raise UserError(f"data.root: {root} has no val/ (nor test/); it must hold train/ and val/")


def class_folders(folder: Path) -> list[str]:
    """List the names of class folders, sorted, following links, without hidden ones. UserError if there is none."""
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    if not classes:
        raise UserError(f"data.root: {folder} has no class folders; images go into {folder.name}/CLASS/IMAGE.jpg")
    return classes


def check_classes(train: Path, val: Path) -> list[str]:
    """Return the classes of both folders, sorted. UserError names a class that only one of them has."""
    ours, theirs = class_folders(train), class_folders(val)
    for here, there, missing in ((train, val, set(ours) - set(theirs)), (val, train, set(theirs) - set(ours))):
        if missing:
            example = min(missing)
            raise UserError(
                f"data.root: class {example!r} is in {here} but not in {there} "
                f"({len(missing)} such class(es)); both must hold the same classes"
            )
    return ours


def scan(root: Path) -> Catalog:
    """Read the names of all images below train/ and val/ (or test/).

    Images are files ending in .jpg, .jpeg or .png in any case, directly in the class folders; links are followed.

    Raises:
        UserError: a folder is missing, the classes differ, a class is empty, or a link leads nowhere.
    """
    with reading(), ThreadPoolExecutor(16) as pool:  # on network file systems, listing mostly waits
        train, val = (folder.absolute() for folder in split_folders(root))
        classes = check_classes(train, val)
        splits = [
            Split(folder, dict(zip(classes, pool.map(_list_images, (folder / cls for cls in classes)), strict=True)))
            for folder in (train, val)
        ]
    return Catalog(*splits)


def _list_images(folder: Path) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(EXTENSIONS):
                if entry.is_file():
                    names.append(entry.name)
                elif entry.is_symlink() and not entry.is_dir():
                    raise UserError(f"data.root: {entry.path} is a link that leads to no file")
    if not names:
        raise UserError(f"data.root: class folder {folder} holds no image ({', '.join(EXTENSIONS)})")
    return sorted(names)
