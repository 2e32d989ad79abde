"""A small dataset held on the device as bytes and augmented there in whole batches; the host only slices."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from elth_dist.data import sampling
from elth_dist.data.catalog import Split
from elth_dist.data.options import DataOptions
from elth_dist.data.protocol import Batch, Dataset, TrainLoader, ValLoader, to_device
from elth_dist.data.sampling import TrainPlan, ValPlan
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks


@dataclass(frozen=True)
class Images:
    """One split, in dataset order."""

    pixels: Tensor  # [N, S, S, 3] uint8
    labels: Tensor  # [N] int64

    def to(self, device: torch.device) -> "Images":
        """Copy the images to `device`, unless they are there."""
        if self.pixels.device == self.labels.device == device:
            return self
        return Images(self.pixels.to(device), self.labels.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """Hash every pixel and label."""
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.pixels, self.labels):
            digest.update(part.cpu().numpy().tobytes())
        return digest.hexdigest()


def decode(split: Split, *, resize: int, image_size: int, threads: int, rank: int = 0, world_size: int = 1) -> Images:
    """Decode this rank's images of `split`: shorter side scaled to `resize`, central square of `image_size` px.

    Equals torchvision's Resize and CenterCrop on PIL images. Rank r of W decodes images r, r + W, ...; the pixels of
    the others are 0, so that the sum over ranks is the whole split.

    Raises:
        UserError: names an image that does not decode.
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


class Normaliser:
    """Converts bytes to a network's input: (pixel / 255 - mean) / std in the compute dtype, channels_last."""

    def __init__(self, options: DataOptions, device: torch.device, dtype: torch.dtype) -> None:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (options.mean, options.std))
        self._factor = (1 / (255 * std)).float().to(device)
        self._offset = (-mean / std).float().to(device)
        self._dtype = dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        """Convert [B, H, W, 3] uint8 to [B, 3, H, W]."""
        return pixels.float().mul_(self._factor).add_(self._offset).to(self._dtype).permute(0, 3, 1, 2)


def augment(pixels: Tensor, offsets: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Crop each zero-padded image at its own offset, and mirror it if its `mirror` is 1.

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


class ResidentTrain(TrainLoader):
    """Training batches from memory. Order and augmentation are drawn and copied to the device once per epoch."""

    def __init__(
        self, images: Images, plan: TrainPlan, options: DataOptions, source: Mapping[str, Any], dtype: torch.dtype
    ) -> None:
        """`images` are on the device of the batches."""
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


class ResidentVal(ValLoader):
    """Validation batches from memory."""

    def __init__(self, images: Images, plan: ValPlan, options: DataOptions, dtype: torch.dtype) -> None:
        """`images` are on the device of the batches."""
        super().__init__(plan)
        self._images = images
        self._normalise = Normaliser(options, images.pixels.device, dtype)

    def _fetch(self, position: int) -> Batch:
        indices = torch.from_numpy(self.plan.samples(position))
        chosen = to_device(indices, self._images.pixels.device)
        filled = chosen.clamp(min=0)
        labels = torch.where(chosen < 0, chosen, self._images.labels[filled])
        return Batch(self._normalise(self._images.pixels[filled]), labels, indices)


class ResidentData(Dataset):
    """Images that are held on the device."""

    def __init__(
        self,
        options: DataOptions,
        ranks: Ranks,
        dtype: torch.dtype,
        train: Images,
        val: Images,
        *,
        num_classes: int,
    ) -> None:
        """`train` and `val` are moved to the device of `ranks`."""
        super().__init__(options, ranks, dtype)
        self._train_images, self._val_images = train.to(ranks.device), val.to(ranks.device)
        self.num_classes = num_classes
        self.num_train, self.num_val = len(train.labels), len(val.labels)
        self.fingerprint = f"{train.fingerprint}{val.fingerprint}"

    def _train(self, plan: TrainPlan, source: Mapping[str, Any]) -> TrainLoader:
        return ResidentTrain(self._train_images, plan, self._options, source, self._dtype)

    def _val(self, plan: ValPlan) -> ValLoader:
        return ResidentVal(self._val_images, plan, self._options, self._dtype)
