import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elth_dist.reporting.pictures import kept_magnitudes, mask_picture

DARK, BRIGHT = (68, 1, 84), (253, 231, 36)  # viridis at 0 and 1


@given(st.lists(st.integers(1, 300), min_size=2, max_size=2), st.lists(st.integers(1, 3), max_size=2))
@settings(max_examples=25, deadline=None)
def test_pictures_are_small_but_visible(channels, kernel):
    height, width, colours = mask_picture(torch.ones(*channels, *kernel, dtype=torch.bool)).shape
    assert colours == 3
    assert min(height, width) >= 64
    assert 129 <= max(height, width) <= 256


def test_a_picture_is_out_by_in_channels():
    mask = torch.zeros(64, 32, 3, 3, dtype=torch.bool)
    mask[:16] = True
    mask[:, 8] = True
    picture = mask_picture(mask.to(memory_format=torch.channels_last))
    assert picture.shape == (256, 128, 3), "four pixels a channel"
    assert picture.dtype == np.uint8
    expected = mask[:, :, 0, 0].repeat_interleave(4, dim=0).repeat_interleave(4, dim=1).numpy()
    assert (picture[expected] == BRIGHT).all()
    assert (picture[~expected] == DARK).all()


def test_the_first_layer_shows_each_weight():
    mask = torch.zeros(64, 3, 7, 7, dtype=torch.bool)
    mask[10, 1, 2, 3] = True
    picture = mask_picture(mask)
    height, width = picture.shape[:2]
    assert min(height, width) >= 64
    rows, columns = np.nonzero((picture == BRIGHT).any(axis=-1) & (picture != DARK).all(axis=-1))
    assert rows.size
    assert rows.mean() / height == pytest.approx(10.5 / 64, abs=0.02)
    assert columns.mean() / width == pytest.approx((49 + 2 * 7 + 3.5) / 147, abs=0.02)


def test_one_weight_in_a_hundred_is_seen():
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask.view(-1)[::100] = True
    assert not (mask_picture(mask) == DARK).all()
    pooled = mask_picture(torch.rand(1000, 512, generator=torch.Generator().manual_seed(0)) < 0.01)
    assert (pooled != DARK).any(axis=-1).mean() > 0.1


def test_magnitudes_are_those_of_kept_weights_alone():
    weight = torch.tensor([[1.0, -2.0, 4.0, 100.0]])
    found = kept_magnitudes(weight, torch.tensor([[True, True, True, False]]), bins=4)
    assert found is not None
    assert (found.min, found.max, found.num, found.sum, found.sum_squares) == (1.0, 4.0, 3, 7.0, 21.0)
    assert found.limits == [1.0, 2.0, 3.0, 4.0]
    assert found.counts == [0, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_magnitudes_take_what_training_gives(dtype):
    weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3).to(dtype, memory_format=torch.channels_last))
    mask = torch.rand(8, 4, 3, 3) < 0.5
    found = kept_magnitudes(weight, mask)
    assert found is not None
    assert sum(found.counts) == found.num == int(mask.sum())


def test_magnitudes_of_odd_layers():
    kept = torch.ones(3, dtype=torch.bool)
    assert kept_magnitudes(torch.ones(3), ~kept) is None
    assert kept_magnitudes(torch.full((3,), torch.nan), kept) is None
    found = kept_magnitudes(torch.tensor([0.0, 0.0, torch.inf]), kept)
    assert found is not None
    assert (found.num, sum(found.counts), found.max) == (2, 2, 0.0)
