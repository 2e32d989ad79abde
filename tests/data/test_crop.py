"""RandomResizedCrop's windows, against torchvision's own function."""

import math

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn, types
from torchvision.transforms import RandomResizedCrop

from elth_dist.data import sampling
from elth_dist.data.dali import crop_window

RANGES = [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.1, 1.0), (0.8, 1.25)), ((0.9, 1.0), (0.3, 0.5)), ((1.0, 1.0), (1.9, 2.1))]


def windows(extents, numbers, ratio):
    """[B, 4]: top, left, height, width, by the DALI graph."""
    candidates, position, _ = numbers
    pipeline = Pipeline(batch_size=len(extents), num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        inputs = [
            fn.external_source(name="extent", dtype=types.INT32, ndim=1),
            fn.external_source(name="candidates", dtype=types.FLOAT64, ndim=2),
            fn.external_source(name="position", dtype=types.FLOAT64, ndim=1),
            fn.external_source(name="limits", dtype=types.FLOAT64, ndim=1),
        ]
        pipeline.set_outputs(*crop_window(*inputs))
    pipeline.build()
    limits = np.tile(ratio, (len(extents), 1))
    anchor, shape = pipeline.run(extent=extents, candidates=candidates, position=position, limits=limits)
    return np.concatenate((anchor.as_array(), shape.as_array()), axis=1)


class Scripted:
    """Stands in for torch.empty(1): the next uniform_ takes the next number of a list."""

    def __init__(self, numbers):
        self.numbers = numbers

    def uniform_(self, low, high):
        return torch.tensor([float(low) + (float(high) - float(low)) * next(self.numbers)], dtype=torch.float64)


@pytest.mark.parametrize(("scale", "ratio"), RANGES)
def test_same_numbers_give_torchvisions_window(monkeypatch, scale, ratio):
    random = np.random.default_rng(0)
    extents = random.integers(8, 900, (600, 2)).astype(np.int32)
    extents[:100, 0] = random.integers(8, 40, 100)  # wide strips, which few candidates fit
    extents[100:200, 1] = random.integers(8, 40, 100)  # high ones
    indices = np.arange(len(extents))
    ours = windows(extents, sampling.crop_numbers(5, 2, indices, scale, ratio, True), ratio)
    drawn = sampling.uniforms(5, 2, indices, 2 * sampling.CROP_TRIALS + 3)
    differ = 0
    for extent, row, window in zip(extents.tolist(), drawn.tolist(), ours, strict=True):
        numbers, places = iter(row[:-3]), iter(row[-3:-1])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", lambda _, numbers=numbers: Scripted(numbers))
            patch.setattr(
                torch,
                "randint",
                lambda low, high, size, places=places: torch.tensor([math.floor(next(places) * (high - low)) + low]),
            )
            theirs = RandomResizedCrop.get_params(torch.zeros(1).expand(3, *extent), list(scale), list(ratio))
        differ += tuple(window.tolist()) != tuple(theirs)
        assert np.abs(window - np.array(theirs)).max() <= 1
    assert differ <= 3  # torchvision takes log and exp of the ratio in float32: a side may round the other way


@pytest.mark.parametrize(("scale", "ratio"), RANGES[:2])
@pytest.mark.parametrize("extent", [(375, 500), (500, 120)])
def test_windows_are_distributed_as_torchvisions(scale, ratio, extent):
    count = 4000
    extents = np.tile(np.array(extent, dtype=np.int32), (count, 1))
    ours = windows(extents, sampling.crop_numbers(9, 0, np.arange(count), scale, ratio, True), ratio)
    torch.manual_seed(0)
    image = torch.zeros(1).expand(3, *extent)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)])

    def measures(window):
        top, left, height, width = window.T.astype(float)
        return height * width, width / height, top + height / 2, left + width / 2

    for left, right in zip(measures(ours), measures(theirs), strict=True):
        grid = np.sort(np.concatenate((left, right)))
        distance = np.abs(
            np.searchsorted(np.sort(left), grid, side="right") - np.searchsorted(np.sort(right), grid, side="right")
        ).max()
        assert distance / count < 1.95 * math.sqrt(2 / count)  # Kolmogorov-Smirnov, p < 0.001
