"""The order of samples on each rank, and the random numbers of augmentation: pure functions, no state, no device.

Everything random is a function of (seed, epoch, dataset index): a stream's state is a position, restoring it is exact,
and the world size and the number of workers do not change what is drawn.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from elth_dist.errors import UserError

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Candidates that RandomResizedCrop draws before it falls back to a central crop, as in torchvision.
CROP_TRIALS = 10

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def _key(purpose: str, seed: int, epoch: int) -> bytes:
    """Derive a 16-byte key, unique in practice, from (purpose, seed, epoch)."""
    return hashlib.blake2b(f"elth_dist/{purpose}/{seed}/{epoch}".encode(), digest_size=16).digest()


def philox(counters: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Compute Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised.

    Args:
        counters: [..., 4], one 128-bit counter per row, least significant word first.
        key: two 32-bit words.

    Returns:
        [..., 4]: four random words per counter.
    """
    c0, c1, c2, c3 = (counters[..., word].astype(np.uint64) for word in range(4))
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1 = (right >> _HALF) ^ c1 ^ np.uint64(k0), right & _LOW
        c2, c3 = (left >> _HALF) ^ c3 ^ np.uint64(k1), left & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3), axis=-1).astype(np.uint32)


def uniforms(seed: int, epoch: int, indices: Indices, count: int) -> Floats:
    """Draw `count` numbers in [0, 1) for each sample: row i depends only on (seed, epoch, indices[i]).

    Returns:
        [len(indices), count], of 32 random bits each.
    """
    blocks = -(-count // 4)
    counters = np.zeros((len(indices), blocks, 4), dtype=np.uint32)
    counters[:, :, 0] = np.arange(blocks)
    counters[:, :, 1] = (indices & 0xFFFFFFFF)[:, None]
    counters[:, :, 2] = (indices >> 32)[:, None]
    words = np.frombuffer(_key("augmentation", seed, epoch), dtype="<u4", count=2)
    drawn = philox(counters, (int(words[0]), int(words[1])))
    return drawn.reshape(len(indices), -1)[:, :count].astype(np.float64) * 2.0**-32


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> Indices:
    """Draw a uniformly random order of range(size), read-only.

    Sorts raw Philox words, whose values NumPy guarantees for all versions (unlike Generator.permutation's).
    """
    words = np.frombuffer(_key("order", seed, epoch), dtype="<u8").astype(np.uint64)
    order = np.argsort(np.random.Philox(key=words).random_raw(size), kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False
    return order


def crop_candidates(drawn: Floats, scale: tuple[float, float], ratio: tuple[float, float]) -> Floats:
    """Compute RandomResizedCrop's candidates, relative to the image's size: times sqrt(height * width) in pixels.

    Area uniform in `scale` (fractions of the image), aspect ratio (width / height) log-uniform in `ratio`.

    Args:
        drawn: [B, 2 * CROP_TRIALS] in [0, 1).

    Returns:
        [B, CROP_TRIALS, 2]: height and width.
    """
    area = scale[0] + (scale[1] - scale[0]) * drawn[:, 0::2]
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (high - low) * drawn[:, 1::2])
    candidates: Floats = np.sqrt(np.stack((area / aspect, area * aspect), axis=-1))
    return candidates


def crop_numbers(
    seed: int, epoch: int, indices: Indices, scale: tuple[float, float], ratio: tuple[float, float], flip: bool
) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Draw the random numbers of RandomResizedCrop and a flip.

    Returns:
        [B, CROP_TRIALS, 2] candidates (see crop_candidates), [B, 2] position of the window in [0, 1) of its free room,
        and [B] 1 where to mirror.
    """
    drawn = uniforms(seed, epoch, indices, 2 * CROP_TRIALS + 3)
    position, coin = drawn[:, -3:-1], drawn[:, -1]
    return crop_candidates(drawn[:, :-3], scale, ratio), np.ascontiguousarray(position), _heads(coin, flip)


def pad_crop_numbers(
    seed: int, epoch: int, indices: Indices, pad: int, flip: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw the random numbers of a padded crop and a flip: [B, 2] shifts in -pad .. pad, and [B] 1 where to mirror."""
    drawn = uniforms(seed, epoch, indices, 3)
    shifts = np.floor(drawn[:, :2] * (2 * pad + 1)).astype(np.int32) - np.int32(pad)
    return shifts, _heads(drawn[:, 2], flip)


def _heads(coin: Floats, flip: bool) -> NDArray[np.int32]:
    return ((coin < 0.5) & flip).astype(np.int32)


@dataclass(frozen=True)
class TrainPlan:
    """The training stream of one rank. Position p is micro-batch p % accumulate of optimizer step p // accumulate."""

    seed: int
    num_samples: int
    global_batch: int
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        share = self.world_size * self.accumulate
        if self.global_batch % share:
            raise UserError(
                f"train.global_batch: {self.global_batch} cannot be shared by {self.world_size} rank(s) with "
                f"{self.accumulate} micro-batch(es) each; it must be a multiple of {share}"
            )
        if self.global_batch > self.num_samples:
            raise UserError(
                f"train.global_batch: {self.global_batch} exceeds the training set's {self.num_samples} samples; "
                f"at most {self.num_samples // share * share} here"
            )

    @property
    def micro_batch(self) -> int:
        """Samples of one micro-batch of one rank."""
        return self.global_batch // (self.world_size * self.accumulate)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch; the incomplete global batch is dropped."""
        return self.num_samples // self.global_batch

    def window(self, position: int) -> tuple[int, slice]:
        """Return (epoch, slice of that epoch's permutation) of a micro-batch."""
        step, micro = divmod(position, self.accumulate)
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.global_batch + (self.rank * self.accumulate + micro) * self.micro_batch
        return epoch, slice(start, start + self.micro_batch)

    def order(self, epoch: int) -> Indices:
        """Return the epoch's permutation, [num_samples], the same on every rank."""
        return permutation(self.seed, epoch, self.num_samples)

    def samples(self, position: int) -> tuple[int, Indices]:
        """Return (epoch, [micro_batch] dataset indices) of a micro-batch."""
        epoch, window = self.window(position)
        return epoch, self.order(epoch)[window]


@dataclass(frozen=True)
class ValPlan:
    """One pass of one rank over the validation set, in order: equally many equal batches on every rank.

    `limit` is the most samples that a rank can hold at once; batches are as even as possible, to need little padding.
    """

    num_samples: int
    limit: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        assert self.num_samples > 0
        assert self.limit > 0

    @property
    def batches(self) -> int:
        """Batches of each rank."""
        return -(-self.num_samples // (self.world_size * self.limit))

    @property
    def batch(self) -> int:
        """Samples of each batch, padding included."""
        return -(-self.num_samples // (self.world_size * self.batches))

    def samples(self, position: int) -> Indices:
        """Return the [batch] dataset indices of one batch; -1 marks padding."""
        start = (position * self.world_size + self.rank) * self.batch
        indices = np.arange(start, start + self.batch, dtype=np.int64)
        indices[indices >= self.num_samples] = -1
        return indices
