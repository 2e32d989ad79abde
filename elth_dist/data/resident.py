"""A small dataset held on the device as bytes, augmented there in whole batches; the host does nothing but slice."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from elth_dist.data import sampling
from elth_dist.data.catalog import Split
from elth_dist.data.options import DataOptions
from elth_dist.data.protocol import Batch
from elth_dist.data.sampling import TrainPlan, ValPlan
from elth_dist.data.stream import TrainStream, ValStream, to_device
from elth_dist.errors import UserError


@dataclass(frozen=True)
class Images:
    """One split, in dataset order."""

    pixels: Tensor  # [N, S, S, 3] uint8
    labels: Tensor  # [N] int64

    def to(self, device: torch.device) -> "Images":
        """The same on `device`."""
        return Images(self.pixels.to(device), self.labels.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """Of every pixel and label."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.pixels, self.labels):
            digest.update(part.cpu().numpy().tobytes())
        return digest.hexdigest()


def decode(split: Split, *, resize: int, image_size: int, threads: int, rank: int = 0, world_size: int = 1) -> Images:
    """This rank's images of `split`: shorter side scaled to `resize`, central square of `image_size` px.

    This is torchvision's Resize and CenterCrop on PIL images. Rank r of W decodes images r, r + W, ...; the pixels of
    the others are 0, so that the sum over ranks is the whole split.

    Raises:
        UserError: naming an image that does not decode.
    """
    from torchvision.transforms.v2 import functional as tv

    def one(index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        path = split.path(index)
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"data.root: {path} does not decode as an image ({error})") from error
        if min(image.size) != resize:
            image = tv.resize(image, [resize])
        if image.size != (image_size, image_size):
            image = tv.center_crop(image, [image_size])
        return np.asarray(image)

    pixels = np.zeros((len(split), image_size, image_size, 3), dtype=np.uint8)
    mine = range(rank, len(split), world_size)
    with ThreadPoolExecutor(threads) as pool:
        for index, image in zip(mine, pool.map(one, mine), strict=True):
            pixels[index] = image
    return Images(torch.from_numpy(pixels), torch.from_numpy(split.labels.copy()))


def read_python_batches(parent: Path) -> tuple[Images, Images]:
    """CIFAR-10's train and test images from torchvision's cifar-10-batches-py below `parent`.

    The files are pickles; torchvision opens them only after it has compared their MD5 with the published ones.

    Raises:
        UserError: when a file is missing or is not the published one.
    """
    from torchvision.datasets import CIFAR10

    splits = []
    for train in (True, False):
        try:
            data = CIFAR10(str(parent), train=train, download=False)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"data.root: {parent / 'cifar-10-batches-py'} is incomplete or not the published CIFAR-10 ({error})"
            ) from error
        splits.append(Images(torch.from_numpy(data.data), torch.tensor(data.targets, dtype=torch.int64)))
    return splits[0], splits[1]


class Normaliser:
    """Bytes to what a network sees: (pixel / 255 - mean) / std in the compute dtype, channels_last."""

    def __init__(self, options: DataOptions, device: torch.device, dtype: torch.dtype) -> None:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (options.mean, options.std))
        self._factor = (1 / (255 * std)).float().to(device)
        self._offset = (-mean / std).float().to(device)
        self._dtype = dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        """[B, H, W, 3] uint8 to [B, 3, H, W]."""
        return pixels.float().mul_(self._factor).add_(self._offset).to(self._dtype).permute(0, 3, 1, 2)


def augment(pixels: Tensor, offsets: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Crop each zero-padded image at its own offset, and mirror where told.

    Args:
        pixels: [B, S, S, 3] uint8.
        offsets: [B, 2] rows and columns by which the crop is shifted, -pad .. pad.
        mirror: [B], 1 where to mirror.

    Returns:
        [B, S, S, 3] uint8, contiguous.
    """
    size = pixels.shape[1]
    steps = torch.arange(size, device=pixels.device)
    rows = offsets[:, :1] + pad + steps
    columns = offsets[:, 1:] + pad + torch.where(mirror[:, None] > 0, size - 1 - steps, steps)
    padded = F.pad(pixels, (0, 0, pad, pad, pad, pad))
    samples = torch.arange(len(pixels), device=pixels.device)[:, None, None]
    return padded[samples, rows[:, :, None], columns[:, None, :]]


class ResidentTrain(TrainStream):
    """Training batches cut from memory. Orders and augmentation are drawn and sent to the device once an epoch."""

    def __init__(
        self, images: Images, plan: TrainPlan, options: DataOptions, source: dict[str, Any], dtype: torch.dtype
    ) -> None:
        """`images` lie on the device where the batches are wanted."""
        super().__init__(plan, source)
        self._images = images
        self._options = options
        self._normalise = Normaliser(options, images.pixels.device, dtype)
        self._epoch = -1

    def _fetch(self, position: int) -> Batch:
        epoch, window = self.plan.window(position)
        if epoch != self._epoch:
            self._enter(epoch)
        chosen = self._order[window]
        pixels = self._images.pixels[chosen]
        if self._options.augment == "pad_crop" or self._options.flip:
            pixels = augment(pixels, self._offsets[window], self._mirror[window], self._pad)
        return Batch(self._normalise(pixels), self._images.labels[chosen], self._order_cpu[window])

    def _enter(self, epoch: int) -> None:
        device = self._images.pixels.device
        order = self.plan.order(epoch)
        self._pad = self._options.pad if self._options.augment == "pad_crop" else 0
        shift, mirror = sampling.pad_crop_numbers(self.plan.seed, epoch, order, self._pad, self._options.flip)
        self._order_cpu = torch.from_numpy(order.copy())
        self._order = to_device(self._order_cpu, device)
        self._offsets = to_device(torch.from_numpy(shift), device)
        self._mirror = to_device(torch.from_numpy(mirror), device)
        self._epoch = epoch


class ResidentVal(ValStream):
    """Validation batches cut from memory."""

    def __init__(self, images: Images, plan: ValPlan, options: DataOptions, dtype: torch.dtype) -> None:
        """`images` lie on the device where the batches are wanted."""
        super().__init__(plan)
        self._images = images
        self._normalise = Normaliser(options, images.pixels.device, dtype)

    def _fetch(self, position: int) -> Batch:
        indices = torch.from_numpy(self.plan.samples(position))
        chosen = to_device(indices, self._images.pixels.device)
        filled = chosen.clamp(min=0)
        labels = torch.where(chosen < 0, chosen, self._images.labels[filled])
        return Batch(self._normalise(self._images.pixels[filled]), labels, indices)
