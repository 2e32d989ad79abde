import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elth_dist.data import sampling
from elth_dist.data.sampling import CROP_TRIALS, TrainPlan, ValPlan
from elth_dist.errors import UserError

seeds = st.integers(0, 2**64)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_authors_known_answers(counter, key, expected):
    counters = np.array([[int(word, 16) for word in counter.split()]], dtype=np.uint32)
    low, high = (int(word, 16) for word in key.split())
    assert [f"{word:08x}" for word in sampling.philox(counters, (low, high))[0]] == expected.split()


@given(seeds, st.integers(0, 10**6), st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.integers(1, 30))
def test_a_samples_numbers_do_not_depend_on_its_company(seed, epoch, indices, count):
    together = sampling.uniforms(seed, epoch, np.array(indices), count)
    assert together.shape == (len(indices), count)
    assert ((together >= 0) & (together < 1)).all()
    for row, index in zip(together, indices, strict=True):
        np.testing.assert_array_equal(row, sampling.uniforms(seed, epoch, np.array([index]), count)[0])


def test_numbers_are_uniform_and_independent_of_each_other():
    drawn = sampling.uniforms(7, 3, np.arange(20_000), 23)
    histogram = np.stack([np.histogram(column, bins=20, range=(0, 1))[0] for column in drawn.T])
    chi_squared = ((histogram - 1000) ** 2 / 1000).sum(axis=1)  # 19 degrees of freedom: above 50 has p < 2e-4
    assert chi_squared.max() < 50
    assert np.abs(np.corrcoef(drawn.T) - np.eye(23)).max() < 0.04
    neighbours = np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]
    assert abs(neighbours) < 0.04


def test_seeds_epochs_and_samples_have_numbers_of_their_own():
    where = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2**32), (10, 1, 0), (1, 10, 0), (2**64, 0, 0)]
    rows = [tuple(sampling.uniforms(seed, epoch, np.array([index]), 4)[0]) for seed, epoch, index in where]
    assert len(set(rows)) == len(where)


@given(seeds, st.integers(0, 1000), st.integers(1, 3000))
def test_permutation_holds_each_sample_once(seed, epoch, size):
    order = sampling.permutation(seed, epoch, size)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    assert not order.flags.writeable


def test_permutations_are_uniform_over_all_orders():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for epoch in range(4800):
        counts[tuple(int(index) for index in sampling.permutation(11, epoch, 4))] += 1
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 60  # 23 degrees of freedom: p < 4e-5


PINNED_ORDER = [0, 3, 1, 7, 6, 4, 5, 2]
PINNED_NUMBERS = [[0.5286925556138158, 0.6979205312673002], [0.08312176377512515, 0.010594905354082584]]


def test_order_is_pinned():
    """A change here would silently change every run's data order, also of runs that are resumed."""
    assert sampling.permutation(0, 0, 8).tolist() == PINNED_ORDER
    np.testing.assert_allclose(sampling.uniforms(0, 0, np.array([0, 5]), 2), PINNED_NUMBERS, atol=1e-9)


@st.composite
def shared(draw):
    world_size, accumulate = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    global_batch = world_size * accumulate * draw(st.integers(1, 5))
    return draw(seeds), global_batch + draw(st.integers(0, 200)), global_batch, accumulate, world_size


@given(shared(), st.integers(0, 10_000))
def test_global_batch_is_cut_into_runs_of_one_order(how, step):
    seed, size, global_batch, accumulate, world_size = how
    plans = [TrainPlan(seed, size, global_batch, accumulate, rank, world_size) for rank in range(world_size)]
    alone = TrainPlan(seed, size, global_batch)
    parts = [plan.samples(step * accumulate + micro) for plan in plans for micro in range(accumulate)]
    epoch, whole = alone.samples(step)
    assert epoch == step // alone.steps_per_epoch
    assert {part_epoch for part_epoch, _ in parts} == {epoch}
    np.testing.assert_array_equal(np.concatenate([indices for _, indices in parts]), whole)
    assert {len(indices) for _, indices in parts} == {plans[0].micro_batch}
    assert {plan.steps_per_epoch for plan in plans} == {size // global_batch}


@given(shared())
def test_no_sample_comes_twice_in_an_epoch(how):
    seed, size, global_batch, _, _ = how
    plan = TrainPlan(seed, size, global_batch)
    seen = np.concatenate([plan.samples(step)[1] for step in range(plan.steps_per_epoch)])
    assert len(np.unique(seen)) == len(seen) == size // global_batch * global_batch


def test_batches_that_cannot_be_shared_or_filled_are_refused():
    with pytest.raises(UserError, match=r"train.global_batch: 10 .* 3 rank.* multiple of 6"):
        TrainPlan(0, 100, 10, accumulate=2, world_size=3)
    with pytest.raises(UserError, match=r"train.global_batch: 128 exceeds .* 100 samples; at most 96"):
        TrainPlan(0, 100, 128, accumulate=2, world_size=16)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9))
def test_validation_counts_each_sample_once_in_equal_batches(size, limit, world_size):
    plans = [ValPlan(size, limit, rank, world_size) for rank in range(world_size)]
    assert len({(plan.batches, plan.batch) for plan in plans}) == 1
    assert 1 <= plans[0].batch <= limit
    batches = [plan.samples(position) for plan in plans for position in range(plan.batches)]
    assert {len(batch) for batch in batches} == {plans[0].batch}
    seen = np.concatenate(batches)
    np.testing.assert_array_equal(np.sort(seen[seen >= 0]), np.arange(size))
    assert (seen < 0).sum() < world_size * plans[0].batches  # less than a sample of padding a batch


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.1, 1), st.floats(1, 10), seeds)
def test_crop_candidates_keep_to_their_ranges(low, high, narrow, wide, seed):
    low, high = sorted((low, high))
    drawn = sampling.uniforms(seed, 0, np.arange(50), 2 * CROP_TRIALS)
    size = sampling.crop_candidates(drawn, (low, high), (narrow, wide))
    assert size.shape == (50, CROP_TRIALS, 2)
    area, aspect = size[..., 0] * size[..., 1], size[..., 1] / size[..., 0]
    assert ((area >= low * (1 - 1e-9)) & (area <= high * (1 + 1e-9))).all()
    assert ((aspect >= narrow * (1 - 1e-9)) & (aspect <= wide * (1 + 1e-9))).all()


@given(st.integers(0, 8), st.booleans(), seeds)
def test_pad_crop_shifts_are_uniform_within_the_padding(pad, flip, seed):
    shifts, mirror = sampling.pad_crop_numbers(seed, 0, np.arange(4000), pad, flip)
    assert set(np.unique(shifts)) == set(range(-pad, pad + 1))
    assert set(np.unique(mirror)) == ({0, 1} if flip else {0})
    assert abs(mirror.mean() - 0.5 * flip) < 0.05
    assert np.bincount((shifts + pad).ravel()).std() < 6 * np.sqrt(8000 / (2 * pad + 1))
