"""Read images from files with NVIDIA DALI, decoded on the GPU if there is one, else on the CPU.

DALI neither shuffles nor draws random numbers here. It receives file names in the order of our permutation, with the
random numbers of each sample: a stream's only state is its position (so that DALI's own checkpoints are not needed),
and samples are prefetched across the ends of epochs.

Pixels equal torchvision's on PIL images: triangular, antialiased resize to bytes, the same integer windows, no EXIF
rotation. CPU decoders agree; nvJPEG differs in the last bits.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from nvidia.dali import math as dmath
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from elth_dist.data import sampling
from elth_dist.data.catalog import Catalog, Split
from elth_dist.data.options import DataOptions
from elth_dist.data.protocol import Batch, Dataset, TrainLoader, ValLoader, to_device
from elth_dist.data.sampling import CROP_TRIALS, Indices, TrainPlan, ValPlan
from elth_dist.errors import OneRankError
from elth_dist.runtime.ranks import Ranks

Node = Any  # a DALI DataNode; DALI's operators are not typed
Bytes = NDArray[np.uint8]

#: Images per run of a checking pipeline.
_VERIFY_BATCH = 64


class FileNames:
    """The paths of a split as rows of bytes of equal length, so that a batch of paths is one array.

    Shorter names are padded with slashes after the split's folder, which POSIX reads as one slash.
    """

    def __init__(self, split: Split) -> None:
        names = np.array([os.fsencode(name) for name in split.names])
        filled: Any = np.char.rjust(names, names.itemsize, b"/")
        self._rows: Bytes = filled.view(np.uint8).reshape(len(names), -1)
        self._prefix: Bytes = np.frombuffer(os.fsencode(split.folder) + b"/", dtype=np.uint8)

    def __call__(self, indices: Indices) -> Bytes:
        """Return the paths [B, length] for [B] indices."""
        prefix = np.broadcast_to(self._prefix, (len(indices), len(self._prefix)))
        return np.concatenate((prefix, self._rows[indices]), axis=1)


def crop_window(extent: Node, candidates: Node, position: Node, limits: Node) -> tuple[Node, Node]:
    """Choose RandomResizedCrop's window as torchvision: the first candidate that fits, else a central crop.

    Args:
        extent: [2] int32, height and width of the image.
        candidates: [CROP_TRIALS, 2] from sampling.crop_candidates.
        position: [2] in [0, 1), as a fraction of the room around the window.
        limits: [2] range of width / height, which bounds the central crop (float64, which DALI has no constants of).

    Returns:
        Anchor and shape of the window, [2] int32 each, in pixels.
    """
    area = fn.cast(extent[0] * extent[1], dtype=types.FLOAT64)
    sized = _round(candidates * dmath.sqrt(area))
    inside = fn.cast((sized <= extent) & (sized >= 1), dtype=types.INT32)
    fits = fn.reductions.min(inside, axes=[1], keep_dims=True)
    earliness = types.Constant(np.arange(CROP_TRIALS, 0, -1, dtype=np.int32)[:, None], device="cpu")
    score = fits * earliness
    first = fn.cast(score == fn.reductions.max(score, axes=[0], keep_dims=True), dtype=types.INT32) * fits
    any_fits = fn.reductions.max(fits, axes=[0, 1])
    sides = fn.cast(extent, dtype=types.FLOAT64)
    central = dmath.min(extent, _round(fn.stack(sides[1] / limits[0], sides[0] * limits[1])))
    shape = fn.reductions.sum(sized * first, axes=[0], dtype=types.INT32) + (1 - any_fits) * central
    room = extent - shape
    drawn = fn.cast(dmath.floor(position * (room + 1)), dtype=types.INT32)
    anchor = any_fits * drawn + (1 - any_fits) * (room // 2)
    return fn.cast(anchor, dtype=types.INT32), fn.cast(shape, dtype=types.INT32)


def _round(value: Node) -> Node:
    """Round to the nearest int32, halves to even, as Python's round()."""
    nearest = dmath.floor(value + 0.5)
    half = fn.cast(nearest == value + 0.5, dtype=types.INT32)
    whole = fn.cast(nearest, dtype=types.INT32)
    return whole - half * (whole & 1)


class Operators:
    """The operators of one pipeline, for a device and a set of options."""

    def __init__(self, options: DataOptions, device: torch.device, dtype: torch.dtype, *, exact: bool) -> None:
        """`exact`: on GPUs, use the CPU decoders' slower chroma upsampling (evaluation)."""
        self._options = options
        self._dtype = types.FLOAT16 if dtype == torch.float16 else types.FLOAT
        self._decoder: dict[str, Any] = {"device": "cpu", "output_type": types.RGB, "adjust_orientation": False}
        if device.type == "cuda":
            self._decoder |= {
                "device": "mixed",
                "hw_decoder_load": options.hw_decoder_load,
                "jpeg_fancy_upsampling": exact,
            }

    def decode(self, name: Node) -> Node:
        """Decode the whole image of a file, [H, W, 3] bytes."""
        return fn.decoders.image(fn.io.file.read(name), **self._decoder)

    def resized_crop(self, name: Node, candidates: Node, position: Node, mirror: Node, limits: Node) -> Node:
        """Cut and scale a random window of the image; decodes only the window if the decoder can."""
        raw = fn.io.file.read(name)
        anchor, shape = crop_window(self._extent(raw), candidates, position, limits)
        window = fn.decoders.image_slice(raw, anchor, shape, axes=[0, 1], **self._decoder)
        size = self._options.image_size
        return self._normalise(self._resize(window, [size, size]), mirror)

    def pad_crop(self, name: Node, shift: Node, mirror: Node) -> Node:
        """Zero-pad, shift and crop the evaluation's image."""
        size = self._options.image_size
        shifted = fn.slice(
            self._centre(name), start=shift, shape=[size, size], axes=[0, 1], out_of_bounds_policy="pad", fill_values=0
        )
        return self._normalise(shifted, mirror)

    def centre(self, name: Node, mirror: Node | None = None) -> Node:
        """Make the evaluation's image: shorter side scaled to `resize`, central crop."""
        return self._normalise(self._centre(name), mirror)

    def _extent(self, raw: Node) -> Node:
        return fn.cast(fn.peek_image_shape(raw, adjust_orientation=False)[0:2], dtype=types.INT32)

    def _resize(self, image: Node, size: Node) -> Node:
        return fn.resize(image, size=size, interp_type=types.INTERP_TRIANGULAR, antialias=True)

    def _centre(self, name: Node) -> Node:
        raw = fn.io.file.read(name)
        extent = self._extent(raw)
        scaled = extent * self._options.resize // fn.reductions.min(extent)
        image = fn.decoders.image(raw, **self._decoder)
        image = self._resize(image, fn.cast(scaled, dtype=types.FLOAT))
        room = scaled - self._options.image_size
        size = self._options.image_size
        return fn.slice(image, start=_round(room * 0.5), shape=[size, size], axes=[0, 1])

    def _normalise(self, image: Node, mirror: Node | None) -> Node:
        return fn.crop_mirror_normalize(
            image,
            dtype=self._dtype,
            output_layout="HWC",
            mean=[255 * value for value in self._options.mean],
            std=[255 * value for value in self._options.std],
            mirror=0 if mirror is None else mirror,
        )


class Reader:
    """A pipeline over our own sequence of batches, which can start at any position."""

    def __init__(
        self,
        split: Split,
        batch: int,
        graph: Callable[..., Node],
        draw: Callable[[int], tuple[Indices, tuple[NDArray[Any], ...]]],
        follow: Callable[[int], int],
        options: DataOptions,
        device: torch.device,
    ) -> None:
        """
        Args:
            split: the files.
            batch: samples per batch.
            graph: maps (file name, *inputs) to normalised images [H, W, 3].
            draw: maps a position to ([batch] indices, -1 for padding; arrays [batch, ...] that become `inputs`).
            follow: maps a position to the next one.
            options: set threads and prefetch.
            device: the device of the images.
        """
        self._split = split
        self._names = FileNames(split)
        self._batch = batch
        self._graph = graph
        self._draw = draw
        self._follow = follow
        self._options = options
        self._device = device
        self._pipeline: Any = None
        self._fed: deque[tuple[int, Indices]] = deque()  # in DALI's pipeline, oldest first
        self._next = 0  # the next position to feed to DALI

    def fetch(self, position: int) -> tuple[Tensor, Indices]:
        """Return images ([B, 3, H, W], channels_last) and indices of the batch at `position`.

        Discards batches prefetched for other positions.

        Raises:
            UserError: names a file that cannot be read or decoded.
        """
        if self._next != position and all(position != fed for fed, _ in self._fed):
            self._next = position
        if self._pipeline is None:
            self._pipeline = self._build(position)
        while True:
            try:
                (output,) = self._pipeline.run(*self._stream())
            except RuntimeError as error:
                self._explain(error)
            fed, indices = self._fed.popleft()
            if fed == position:
                # DALI's executor does not reuse a buffer that dlpack still holds, and returns it in stream order.
                return from_dlpack(output.as_tensor()).permute(0, 3, 1, 2), indices

    def close(self) -> None:
        """Release the pipeline's threads and memory."""
        self._pipeline = None
        self._fed.clear()

    def _build(self, position: int) -> Any:
        _, inputs = self._draw(position)
        kinds = [np.dtype(np.uint8), *(array.dtype for array in inputs)]
        pipeline = Pipeline(
            batch_size=self._batch,
            num_threads=self._options.threads,
            device_id=self._device.index if self._device.type == "cuda" else None,
            prefetch_queue_depth=self._options.prefetch,
        )
        with pipeline:
            nodes = fn.external_source(
                source=self._feed,
                num_outputs=len(kinds),
                dtype=[types.to_dali_type(kind.name) for kind in kinds],
                ndim=[1, *(array.ndim - 1 for array in inputs)],
            )
            pipeline.set_outputs(self._graph(*nodes))
        pipeline.build()
        return pipeline

    def _feed(self) -> tuple[NDArray[Any], ...]:
        indices, inputs = self._draw(self._next)
        self._fed.append((self._next, indices))
        self._next = self._follow(self._next)
        return self._names(np.maximum(indices, 0)), *inputs

    def _stream(self) -> tuple[Any, ...]:
        # With a stream of ours, only that stream waits for the images, not the host.
        return (torch.cuda.current_stream(self._device),) if self._device.type == "cuda" else ()

    def _explain(self, error: RuntimeError) -> None:
        """Raise a UserError that names the file on which the pipeline failed; `error` itself if no file did."""
        suspects = [self._split.path(int(index)) for _, indices in self._fed for index in indices if index >= 0]
        self.close()
        for path in suspects:
            reason = why_undecodable(path, self._options, self._device)
            if reason is not None:
                raise OneRankError(f"data.root: {path} does not decode as an image ({reason})") from error
        raise error


class DaliTrain(TrainLoader):
    """Training batches by DALI."""

    def __init__(
        self,
        split: Split,
        plan: TrainPlan,
        options: DataOptions,
        source: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(plan, source)
        self._options = options
        self._labels = split.labels
        self._device = device
        self._dtype = dtype
        operators = Operators(options, device, dtype, exact=False)
        graphs: dict[str, Callable[..., Node]] = {
            "resized_crop": operators.resized_crop,
            "pad_crop": operators.pad_crop,
            "none": operators.centre,
        }
        self._reader = Reader(
            split, plan.micro_batch, graphs[options.augment], self._draw, lambda position: position + 1, options, device
        )

    def close(self) -> None:
        """Release DALI's threads and memory."""
        self._reader.close()

    def _fetch(self, position: int) -> Batch:
        images, indices = self._reader.fetch(position)
        labels = to_device(torch.from_numpy(self._labels[indices]), self._device)
        return Batch(images.to(self._dtype), labels, torch.from_numpy(indices.copy()))

    def _draw(self, position: int) -> tuple[Indices, tuple[NDArray[Any], ...]]:
        options, seed = self._options, self.plan.seed
        epoch, indices = self.plan.samples(position)
        inputs: tuple[NDArray[Any], ...]
        if options.augment == "resized_crop":
            numbers = sampling.crop_numbers(seed, epoch, indices, options.scale, options.ratio, options.flip)
            inputs = (*numbers, np.tile(options.ratio, (len(indices), 1)))
        else:
            inputs = sampling.pad_crop_numbers(seed, epoch, indices, options.pad, options.flip)
            if options.augment == "none":
                inputs = inputs[1:]
        return indices, inputs


class DaliVal(ValLoader):
    """Validation batches by DALI. The next pass is prefetched while this one ends."""

    def __init__(
        self, split: Split, plan: ValPlan, options: DataOptions, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(plan)
        self._labels = split.labels
        self._device = device
        self._dtype = dtype
        graph = Operators(options, device, dtype, exact=True).centre
        self._reader = Reader(
            split,
            plan.batch,
            graph,
            lambda position: (plan.samples(position), ()),
            lambda position: (position + 1) % plan.batches,
            options,
            device,
        )

    def close(self) -> None:
        """Release DALI's threads and memory."""
        self._reader.close()

    def _fetch(self, position: int) -> Batch:
        images, indices = self._reader.fetch(position)
        labels = np.where(indices < 0, indices, self._labels[np.maximum(indices, 0)])
        return Batch(
            images.to(self._dtype), to_device(torch.from_numpy(labels), self._device), torch.from_numpy(indices.copy())
        )


class DaliData(Dataset):
    """Image files below class folders."""

    def __init__(self, options: DataOptions, ranks: Ranks, dtype: torch.dtype, catalog: Catalog) -> None:
        super().__init__(options, ranks, dtype)
        self.num_classes = len(catalog.classes)
        self.num_train, self.num_val = len(catalog.train), len(catalog.val)
        self.fingerprint = catalog.fingerprint
        self._catalog = catalog

    def _train(self, plan: TrainPlan, source: Mapping[str, Any]) -> TrainLoader:
        return DaliTrain(self._catalog.train, plan, self._options, source, self._ranks.device, self._dtype)

    def _val(self, plan: ValPlan) -> ValLoader:
        return DaliVal(self._catalog.val, plan, self._options, self._ranks.device, self._dtype)


def undecodable(paths: Sequence[Path], options: DataOptions, device: torch.device) -> list[tuple[Path, str]]:
    """Decode every file once; list those that fail, each with DALI's reason."""
    failed = []
    pipeline = None
    for start in range(0, len(paths), _VERIFY_BATCH):
        chunk = paths[start : start + _VERIFY_BATCH]
        pipeline = pipeline or _decoding_pipeline(_VERIFY_BATCH, options, device)
        if _decode(pipeline, chunk) is not None:
            pipeline = None  # a DALI pipeline is unusable after an error
            reasons = ((path, why_undecodable(path, options, device)) for path in chunk)
            failed += [(path, reason) for path, reason in reasons if reason is not None]
    return failed


def why_undecodable(path: Path, options: DataOptions, device: torch.device) -> str | None:
    """Return DALI's reason why it cannot decode the file; None if it can."""
    return _decode(_decoding_pipeline(1, options, device), [path])


def _decoding_pipeline(batch: int, options: DataOptions, device: torch.device) -> Any:
    pipeline = Pipeline(
        batch_size=batch,
        num_threads=options.threads,
        device_id=device.index if device.type == "cuda" else None,
        prefetch_queue_depth=1,
    )
    with pipeline:
        name = fn.external_source(name="name", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(Operators(options, device, torch.float32, exact=False).decode(name))
    pipeline.build()
    return pipeline


def _decode(pipeline: Any, paths: Sequence[Path]) -> str | None:
    try:
        pipeline.run(name=[np.frombuffer(os.fsencode(path), dtype=np.uint8) for path in paths])
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).partition("encountered:")[2].splitlines()]
        return next((line for line in lines if line), "DALI gives no reason")
    return None
