"""Find the exact k-th smallest score over all ranks, and prune by it.

A radix select: fp32 bit patterns, read as sign and magnitude, are order-preserving integers. Three histograms (of the
highest 11, the next 11 and the last 10 bits), each summed over ranks, determine the k-th smallest score to the bit. No
scores are sent or sorted: whole tensors, shards and any number of ranks give the same threshold.
"""

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from elth_dist.sparsity.masks import Masks

_T = TypeVar("_T")

_MAGNITUDE = 0x7FFFFFFF  # all bits but the sign
_INF = 0x7F800000  # keys of numbers lie in [-_INF, _INF]; the only other keys are the two below
_NAN = 0x7FBFFFFF
_NO_CANDIDATE = 0x7FFFFFFF

# (shift, bits, offset) of each digit of a key: the highest digit is signed
_DIGITS = ((21, 11, 1 << 10), (10, 11, 0), (0, 10, 0))


class Threshold(NamedTuple):
    """The cut of a selection: all lower scores are pruned, and of the equal scores the first `ties` by position."""

    bits: int  # of the k-th smallest score as an fp32, 0 <= bits < 2^32; zeros of either sign are 0
    ties: int  # at least 1, or 0 when nothing is pruned

    @property
    def score(self) -> float:
        """The k-th smallest score."""
        value: float = struct.unpack("<f", struct.pack("<I", self.bits))[0]
        return value


def identity(value: _T) -> _T:
    """Return the value itself: the `reduce` and `share` of one rank, or of ranks that each hold everything."""
    return value


def exact_count(fraction: float, remaining: int) -> int:
    """Compute ceil(fraction x remaining) with `fraction` as the decimal number that is written: 20 % of 5 is 1, not 2.

    In binary, 0.2 is a little more than 1/5. ValueError unless 0 <= fraction <= 1 and remaining >= 0.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction of {fraction} is not between 0 and 1")
    if remaining < 0:
        raise ValueError(f"{remaining} remaining weights")
    return math.ceil(Fraction(repr(float(fraction))) * remaining)


def select(
    scores: Sequence[Tensor],
    candidates: Sequence[Tensor],
    k: int,
    reduce: Callable[[Tensor], Tensor] = identity,
    names: Sequence[str] = (),
) -> Threshold:
    """Find the k-th smallest score among the candidates of all ranks.

    Args:
        scores: fp32 tensors of any shapes and strides, on one device; this rank's part of the scores, or all of them.
            At least one tensor, which may be empty.
        candidates: bool tensors of the same shapes; scores where they are False are ignored, NaN included.
        k: 0 <= k <= number of candidates over all ranks; the same on every rank.
        reduce: sums an int64 tensor of up to 2,048 entries (16 KB) over the ranks, which all call it three times (once
            for k = 0); `identity` if every rank holds all scores.
        names: of the tensors, for error messages.

    Returns:
        The threshold, the same on every rank. -0.0 equals 0.0.

    Raises:
        ValueError: on every rank, if a candidate's score is NaN or k is out of range.
    """
    if any(tensor.dtype != torch.float32 for tensor in scores):
        raise ValueError("scores must be fp32")
    return _select(_keys(scores, candidates), scores, candidates, k, reduce, names)


def prune(
    masks: Masks,
    scores: Mapping[str, Tensor],
    k: int,
    reduce: Callable[[Tensor], Tensor] = identity,
    share: Callable[[Threshold], Iterable[int]] = identity,
) -> Masks:
    """Prune exactly `k` of the kept weights, those with the smallest scores.

    Of equal scores, the first by position are pruned: by parameter order, then by logical (NCHW) flat index.

    Args:
        masks: the masks to prune; not changed.
        scores: fp32, for every masked weight, of its shape, whole, and on the masks' device; ignored where the mask is
            False.
        k: how many to prune, 0 <= k <= masks.kept.
        reduce: see `select`.
        share: sends rank 0's threshold, two integers, to every rank.

    Returns:
        New masks on the same device, contiguous.

    Raises:
        ValueError: a score is NaN (names its tensor), k is out of range, or scores and masks do not fit.
    """
    if missing := masks.keys() - scores.keys():
        raise ValueError(f"no scores for {min(missing)!r}")
    values = [scores[name] for name in masks]
    for name, value in zip(masks, values, strict=True):
        if value.dtype != torch.float32 or value.shape != masks[name].shape:
            raise ValueError(
                f"the scores of {name!r} are {value.dtype} {list(value.shape)}, not fp32 {list(masks[name].shape)}"
            )
    keys = _keys(values, list(masks.values()))
    threshold = Threshold(*share(_select(keys, values, list(masks.values()), k, reduce, list(masks))))
    key = _key(threshold.bits)
    kept = keys > key
    equal = (keys == key).nonzero().squeeze(1)
    kept[equal[threshold.ties :]] = True
    kept &= keys != _NO_CANDIDATE
    parts = torch.split(kept, [mask.numel() for mask in masks.values()])
    return Masks({name: part.view(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)})


def prune_to(
    masks: Masks,
    scores: Mapping[str, Tensor],
    kept: int | Mapping[str, int],
    share: Callable[[Threshold], Iterable[int]] = identity,
) -> Masks:
    """Prune to exactly `kept` weights, those with the highest scores; ties as in `prune`.

    Args:
        masks: the masks to prune; not changed.
        scores: as in `prune`, and equal on every rank.
        kept: number of weights to keep: of all together, or of each by name.
        share: sends rank 0's threshold, two integers, to every rank.

    Raises:
        ValueError: as in `prune`.
    """
    return prune_by(masks, kept, lambda some, k: prune(some, scores, k, share=share))


def prune_by(masks: Masks, kept: int | Mapping[str, int], prune: Callable[[Masks, int], Masks]) -> Masks:
    """Prune to exactly `kept` weights (of all together, or of each by name) with `prune(masks, number to prune)`."""
    if isinstance(kept, int):
        return prune(masks, masks.kept - kept)
    pruned = dict(masks)
    for name, count in masks.counts.items():
        if surplus := count - kept[name]:
            pruned[name] = prune(Masks({name: masks[name]}), surplus)[name]
    return Masks(pruned)


class Fragment(NamedTuple):
    """The scores of a stretch of one weight that a rank holds."""

    name: str  # of the weight
    start: int  # logical (NCHW) flat index of its first element
    scores: Tensor  # fp32 [n], of the weights start .. start + n - 1


def prune_fragments(
    masks: Masks,
    fragments: Sequence[Fragment],
    k: int,
    reduce: Callable[[Tensor], Tensor],
    gather: Callable[[list[list[int]]], Sequence[list[list[int]]]],
    share: Callable[[Threshold], Iterable[int]] = identity,
) -> Masks:
    """Prune like `prune`, to the bit, where each rank holds only fragments of the scores. No scores are sent.

    The ties before each fragment are counted over the ranks, and the packed bits of the ranks' decisions are united.

    Args:
        masks: the masks to prune, whole and equal on every rank, on the fragments' device.
        fragments: this rank's; over all ranks they hold every masked weight exactly once.
        k: as for `prune`.
        reduce: sums a tensor of int64 or uint8 over the ranks: three histograms, then one byte per eight weights.
        gather: returns every rank's list of [parameter, start, ties], three numbers per fragment, in rank order, on
            every rank.
        share: sends rank 0's threshold, two integers, to every rank.

    Returns:
        New masks, whole and equal on every rank.

    Raises:
        ValueError: as for `prune`, or the fragments are not those of the masked weights.
    """
    place = {name: index for index, name in enumerate(masks)}
    for name, start, scores in fragments:
        if name not in place or start < 0 or start + scores.numel() > masks[name].numel():
            raise ValueError(f"a fragment of {name!r} from {start} with {scores.numel()} scores lies in no mask")
    pieces = [masks[f.name].reshape(-1)[f.start : f.start + f.scores.numel()] for f in fragments]
    values = [f.scores for f in fragments] or [torch.zeros(0, device=next(iter(masks.values())).device)]
    candidates = pieces or [torch.zeros(0, dtype=torch.bool, device=values[0].device)]
    threshold = Threshold(*share(select(values, candidates, k, reduce, [f.name for f in fragments])))
    key = _key(threshold.bits)
    keys = [_keys([value], [candidate]) for value, candidate in zip(values, candidates, strict=True)]
    counts: list[int] = torch.stack([(own == key).sum() for own in keys]).tolist()
    everyone = gather([[place[f.name], f.start, ties] for f, ties in zip(fragments, counts, strict=False)])
    ties_at = [(index, start, ties) for own in everyone for index, start, ties in own]
    kept = {name: torch.zeros_like(mask, memory_format=torch.contiguous_format) for name, mask in masks.items()}
    for fragment, own in zip(fragments, keys, strict=False):
        position = (place[fragment.name], fragment.start)
        before = sum(ties for index, start, ties in ties_at if (index, start) < position)
        stays = own > key
        stays[(own == key).nonzero().squeeze(1)[max(0, threshold.ties - before) :]] = True
        stays &= own != _NO_CANDIDATE
        kept[fragment.name].view(-1)[fragment.start : fragment.start + stays.numel()] = stays
    packed = Masks(kept).packed()
    united = torch.split(reduce(torch.cat(list(packed.values()))), [bits.numel() for bits in packed.values()])
    pruned = Masks.unpack(dict(zip(packed, united, strict=True)), {name: mask.shape for name, mask in masks.items()})
    if pruned.kept != masks.kept - k:
        raise ValueError(f"the fragments do not hold each of the {masks.total} masked weights once")
    return pruned


def _select(
    keys: Tensor,
    scores: Sequence[Tensor],
    candidates: Sequence[Tensor],
    k: int,
    reduce: Callable[[Tensor], Tensor],
    names: Sequence[str],
) -> Threshold:
    rank, prefix = k, 0  # the wanted key is the rank-th smallest of the remaining keys, which all begin with `prefix`
    for shift, width, offset in _DIGITS:
        digits = keys >> shift
        digits.bitwise_and_((1 << width) - 1).bitwise_xor_(offset)
        histogram: list[int] = reduce(torch.bincount(digits, minlength=1 << width)).tolist()
        if offset:
            _check(histogram, k, scores, candidates, names)
            if k == 0:
                return Threshold(bits=_bits(-_INF), ties=0)
        bucket = 0
        while rank > histogram[bucket]:
            rank -= histogram[bucket]
            bucket += 1
        prefix += (bucket - offset) << shift
        if shift:
            keys = keys[digits == bucket]
    return Threshold(bits=_bits(prefix), ties=rank)


def _check(
    histogram: Sequence[int], k: int, scores: Sequence[Tensor], candidates: Sequence[Tensor], names: Sequence[str]
) -> None:
    """Refuse NaN and an invalid k, by the histogram of the highest digit, which is equal on every rank."""
    nans = (_NAN >> 21) + (1 << 10)
    if histogram[nans]:
        own = (i for i, (s, c) in enumerate(zip(scores, candidates, strict=True)) if (s.isnan() & c).any())
        index = next(own, None)
        where = "on another rank" if index is None else f"in {names[index]!r}" if names else f"in tensor {index}"
        raise ValueError(f"{histogram[nans]} scores are NaN, the first {where}")
    available = sum(histogram[:nans])
    if not 0 <= k <= available:
        raise ValueError(f"cannot select {k} of {available} weights")


def _keys(scores: Sequence[Tensor], candidates: Sequence[Tensor]) -> Tensor:
    """Convert scores to order-preserving integers: int32 [numel], tensors concatenated in logical order."""
    values = torch.cat([score.reshape(-1) for score in scores])
    bits = values.view(torch.int32)
    sign = bits >> 31  # 0 or -1; (x ^ -1) - -1 is -x, so that both zeros are 0
    keys = (bits & _MAGNITUDE).bitwise_xor_(sign).sub_(sign)
    keys.masked_fill_(values.isnan(), _NAN)
    return keys.masked_fill_(
        torch.cat([candidate.reshape(-1) for candidate in candidates]).logical_not_(), _NO_CANDIDATE
    )


def _key(bits: int) -> int:
    return -(bits & _MAGNITUDE) if bits >> 31 else bits


def _bits(key: int) -> int:
    return 1 << 31 | -key if key < 0 else key
