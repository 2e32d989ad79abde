"""What lies in a class-per-folder tree of images, and the checks that need nothing else. No torch here."""

import hashlib
import importlib.util
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

from elth_dist.data.digits import TRAIN_SIZE as DIGITS_TRAIN_SIZE
from elth_dist.data.options import DataOptions
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
        """Where image `index` lies."""
        return self.folder / self.names[index]


@dataclass(frozen=True)
class Catalog:
    """Both splits of a dataset, with the same classes."""

    train: Split
    val: Split

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; labels are positions in here."""
        return tuple(self.train.files)

    @cached_property
    def fingerprint(self) -> str:
        """Of the names of all images: what a moved copy of the dataset shares with it."""
        digest = hashlib.blake2b(digest_size=8)
        for split in (self.train, self.val):
            for name in split.names:
                digest.update(os.fsencode(name) + b"\0")
            digest.update(b"\1")
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What from_json() needs to build the same catalog on another rank."""
        return {
            split: {"folder": str(part.folder), "files": part.files}
            for split, part in (("train", self.train), ("val", self.val))
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Catalog":
        """The inverse of to_json()."""
        return cls(**{split: Split(Path(part["folder"]), part["files"]) for split, part in value.items()})


@contextmanager
def reading() -> Iterator[None]:
    """Turns what the system refuses to read or write below data.root into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"data.root: {error}") from error


def split_folders(root: Path) -> tuple[Path, Path]:
    """The folders of the training and of the validation images: train/, and val/ or else test/.

    Raises:
        UserError: naming the one that is missing.
    """
    if not root.is_dir():
        raise UserError(
            f"data.root: no folder {root}; it must hold train/ and val/ (or test/), a folder a class in each"
        )
    train = root / "train"
    if not train.is_dir():
        raise UserError(f"data.root: {root} has no train/; it must hold train/ and val/ (or test/)")
    for name in ("val", "test"):
        if (root / name).is_dir():
            return train, root / name
    raise UserError(f"data.root: {root} has no val/ (nor test/); it must hold train/ and val/")


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the class folders (links followed, hidden ones left out). UserError when there is none."""
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    if not classes:
        raise UserError(f"data.root: {folder} has no class folders; images go into {folder.name}/CLASS/IMAGE.jpg")
    return classes


def check_classes(train: Path, val: Path) -> list[str]:
    """The classes of both folders, sorted. UserError naming one that only one of them has."""
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
    with reading(), ThreadPoolExecutor(16) as pool:  # on network file systems a listing is mostly waiting
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


def python_batches(root: Path) -> Path | None:
    """The folder that holds CIFAR-10's cifar-10-batches-py: `root` or, when `root` is that very folder, its parent."""
    parent = root.absolute().parent if root.name == "cifar-10-batches-py" else root
    return parent if (parent / "cifar-10-batches-py").is_dir() else None


#: Training images and classes of what is published; folders are counted.
_PUBLISHED = {"imagenet": (1_281_167, 1000), "cifar10": (50_000, 10), "digits": (DIGITS_TRAIN_SIZE, 10)}


def dataset_size(options: DataOptions) -> tuple[int, int]:
    """(training images, classes), without opening the dataset.

    What `data.root` holds is counted, where it is given; otherwise they are those of the published dataset.

    Raises:
        UserError: data.root is needed, or is no dataset.
    """
    if options.name == "synthetic":
        assert options.num_train is not None
        assert options.num_classes is not None
        return options.num_train, options.num_classes
    if options.root is None and options.name not in _PUBLISHED:
        raise UserError(f"data.root: {options.name!r} needs the folder of the dataset; pass --data.root FOLDER")
    if options.root is None or options.name == "digits":
        return _PUBLISHED[options.name]
    if options.name == "cifar10" and python_batches(options.root) is not None:
        return _PUBLISHED["cifar10"]
    catalog = scan(options.root)
    return len(catalog.train), len(catalog.classes)


def check_data(options: DataOptions, *, elsewhere: bool = False) -> None:
    """What can be said about the dataset cheaply and before anything is started.

    `elsewhere`: on a machine that need not see what others will: only whether `options` say where the dataset is.

    Raises:
        UserError: no data.root where one is needed, a folder is missing, classes differ, or DALI is not installed.
    """
    if options.loader == "dali" and not elsewhere and not _dali_installed():
        raise UserError(
            "data.loader: 'dali' needs the package nvidia-dali-cuda130 (Linux); install it, or use 'resident'"
        )
    if options.name in ("digits", "synthetic"):
        return
    if options.root is None:
        raise UserError(f"data.root: {options.name!r} needs the folder of the dataset; pass --data.root FOLDER")
    if elsewhere:
        return
    with reading():
        if options.name == "cifar10" and python_batches(options.root) is not None:
            if options.loader == "dali":
                raise UserError(
                    f"data.loader: 'dali' reads image files, but {options.root} holds python batches; use 'resident'"
                )
        else:
            check_classes(*split_folders(options.root))


def _dali_installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False
