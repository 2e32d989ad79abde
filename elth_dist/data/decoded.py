"""Decoded images on disk: a job that reads the same image files as an earlier one need not decode them."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import features
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from elth_dist.data.catalog import Catalog, Split, reading
from elth_dist.data.options import DataOptions
from elth_dist.data.resident import Images, decode
from elth_dist.runtime.files import make_folder, reason, whole_file
from elth_dist.runtime.ranks import Ranks

_LOG = logging.getLogger(__name__)

#: Raised when a change of the code gives other pixels, so that files of the code before it are not read.
_FORMAT = 1
_METADATA_KEY = "decoded_images"
#: Bytes of pixels that are kept at most: ImageNet at 64 px is decoded by every job.
_LARGEST = 4 << 30


def decode_together(catalog: Catalog, options: DataOptions, ranks: Ranks) -> tuple[Images, Images]:
    """Load training and validation images to every rank's device. Collective.

    Rank 0 reads the images from `options.cache` if an earlier job kept them there; else each rank decodes a share, and
    rank 0 keeps the result.

    Raises:
        UserError: on every rank; names an image that does not decode.
    """
    cache: Decoded | None = None
    read: tuple[Images, Images] | None = None
    with ranks.together():
        if ranks.is_main and options.cache is not None and _bytes(catalog, options) <= _LARGEST:
            cache = Decoded(options.cache, catalog, options)
            read = cache.load()
    was_read = ranks.broadcast_json(read is not None)
    with ranks.together():
        parts = (read or _empty(catalog, options)) if was_read else _decode_shares(catalog, options, ranks)
    train, val = (images.to(ranks.device) for images in parts)
    for images in (train, val):
        ranks.sum_(images.pixels)
    if cache is not None and not was_read:
        cache.save(train, val)
    return train, val


def _decode_shares(catalog: Catalog, options: DataOptions, ranks: Ranks) -> tuple[Images, Images]:
    assert options.threads is not None
    train, val = (
        decode(
            split,
            resize=options.resize,
            image_size=options.image_size,
            threads=options.threads,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        for split in (catalog.train, catalog.val)
    )
    return train, val


def _empty(catalog: Catalog, options: DataOptions) -> tuple[Images, Images]:
    """Make black images: the share of a rank for which rank 0 has read all of them."""
    size = options.image_size
    train, val = (
        Images(torch.zeros(len(split), size, size, 3, dtype=torch.uint8), torch.from_numpy(split.labels.copy()))
        for split in (catalog.train, catalog.val)
    )
    return train, val


class Decoded:
    """The file that keeps the images of a catalog, decoded at one size.

    Its name contains a hash of what determines the pixels: name, size in bytes and modification time of every image
    file, the options, and the versions of the decoders. Its contents are checked against hashes whenever it is read; a
    file that is damaged is written again.
    """

    def __init__(self, folder: Path, catalog: Catalog, options: DataOptions) -> None:
        """Read the status of every image file.

        Args:
            folder: the folder of the file; made on save().
            catalog: the images.
            options: how they are decoded.

        Raises:
            UserError: an image file has disappeared.
        """
        self._catalog, self._size = catalog, options.image_size
        self._key = _key(catalog, options)
        self.path = folder / f"{options.name}-{options.image_size}px-{self._key}.safetensors"

    def load(self) -> tuple[Images, Images] | None:
        """Read the training and validation images to the CPU; return None if the file is missing or damaged."""
        try:
            return self._read() if self.path.is_file() else None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            _LOG.warning("data.cache: %s is damaged (%s): decoding the images again", self.path, error)
            return None

    def save(self, train: Images, val: Images) -> None:
        """Write the images, of any device, whole and durably; a warning if that is impossible."""
        metadata = {_METADATA_KEY: json.dumps(self._told(train, val), sort_keys=True)}
        pixels = {name: images.pixels.cpu() for name, images in (("train", train), ("val", val))}
        try:
            make_folder(self.path.parent)
            with whole_file(self.path) as scratch:
                save_file(pixels, scratch, metadata)
        except (SafetensorError, OSError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            _LOG.warning("data.cache: %s: cannot keep the decoded images there: %s", self.path.parent, why)

    def _read(self) -> tuple[Images, Images]:
        """Raise SafetensorError, OSError, KeyError or ValueError if the file is not what save() wrote."""
        with safe_open(self.path, "pt") as file:
            told = json.loads((file.metadata() or {})[_METADATA_KEY])
            train, val = (
                Images(file.get_tensor(name).clone(), torch.from_numpy(split.labels.copy()))
                for name, split in (("train", self._catalog.train), ("val", self._catalog.val))
            )
        for images in (train, val):
            expected = (len(images.labels), self._size, self._size, 3)
            if images.pixels.dtype != torch.uint8 or images.pixels.shape != expected:
                raise ValueError(f"it holds {list(images.pixels.shape)} {images.pixels.dtype}")
        if told != self._told(train, val):
            raise ValueError("its contents are not those that were written")
        return train, val

    def _told(self, train: Images, val: Images) -> dict[str, str]:
        return {"key": self._key, "train": train.fingerprint, "val": val.fingerprint}


def _bytes(catalog: Catalog, options: DataOptions) -> int:
    return (len(catalog.train) + len(catalog.val)) * 3 * options.image_size**2


def _key(catalog: Catalog, options: DataOptions) -> str:
    decoders = {name: version(name) for name in ("pillow", "torchvision")}
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([_FORMAT, decoders, jpeg, options.resize, options.image_size], sort_keys=True).encode())
    with reading(), ThreadPoolExecutor(16) as pool:  # on network file systems, this mostly waits
        for split in (catalog.train, catalog.val):
            for part in pool.map(lambda cls, split=split: b"".join(_statuses(split, cls)), split.files):
                digest.update(part)
            digest.update(b"\1")
    return digest.hexdigest()


def _statuses(split: Split, cls: str) -> Iterator[bytes]:
    for name in split.files[cls]:
        status = os.stat(os.path.join(split.folder, cls, name))  # noqa: PTH116 - in an inner loop over files
        yield os.fsencode(f"{cls}/{name}") + f"\0{status.st_size} {status.st_mtime_ns}\0".encode()
