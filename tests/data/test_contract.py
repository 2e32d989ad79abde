"""What protocol.py promises, asked of every loader.

Ranks are simulated: once a dataset is open, its loaders use no collectives, so one process can play them all.
"""

import copy
import json

import numpy as np
import pytest
import torch

from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.data.protocol import Batch
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks
from tests.data import shapes  # noqa: F401 - registers its dataset

GLOBAL_BATCH = 48
LAYOUTS = [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1), (4, 3)]  # world size, micro-batches

KINDS = {
    "dali": {"name": "digits", "loader": "dali", "threads": 2},
    "dali-flip": {"name": "digits", "loader": "dali", "threads": 2, "flip": True, "augment": "none"},
    "dali-resized": {
        "name": "digits",
        "loader": "dali",
        "threads": 2,
        "augment": "resized_crop",
        "flip": True,
        "prefetch": 3,
    },
    "resident": {"name": "digits", "loader": "resident", "threads": 2, "flip": True},
    "in-memory": {"name": "shapes", "augment": "pad_crop", "pad": 2},
    "synthetic": {"name": "synthetic", "image_size": 16, "num_classes": 7, "num_train": 500, "num_val": 131},
}


class Opened:
    """A dataset opened once, as any rank sees it. All loaders made through it are closed at the end."""

    def __init__(self, options, root, dtype=torch.float32):
        self.alone = open_dataset(options, Ranks(), default_root=root, dtype=dtype)
        self.loaders = []

    def rank(self, rank, world_size):
        view = copy.copy(self.alone)
        view._ranks = Ranks(rank=rank, world_size=world_size)
        return view

    def train(self, *, seed=1, rank=0, world_size=1, accumulate=1, global_batch=GLOBAL_BATCH):
        dataset = self.rank(rank, world_size)
        self.loaders.append(dataset.train_loader(seed=seed, global_batch=global_batch, accumulate=accumulate))
        return self.loaders[-1]

    def val(self, batch, *, rank=0, world_size=1):
        self.loaders.append(self.rank(rank, world_size).val_loader(batch=batch))
        return self.loaders[-1]


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def dataset(kind, digits):
    return Opened(data_options(**KINDS[kind]), digits.parent)


@pytest.fixture(autouse=True)
def _close(dataset):
    yield
    while dataset.loaders:
        dataset.loaders.pop().close()


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in zip(left, right, strict=True))


def joined(batches) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def take(loader, count):
    return [next(loader) for _ in range(count)]


def test_it_knows_its_size(dataset):
    alone = dataset.alone
    loader = dataset.train()
    assert loader.steps_per_epoch == alone.num_train // GLOBAL_BATCH
    assert dataset.val(32).num_samples == alone.num_val
    assert alone.image_size == 16
    assert iter(loader) is loader


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_batches_are_channels_last_and_of_the_compute_dtype(kind, digits, dtype):
    opened = Opened(data_options(**KINDS[kind]), digits.parent, dtype)
    loader, val = opened.train(accumulate=2), opened.val(30)
    for batch, size in ((next(loader), GLOBAL_BATCH // 2), (next(iter(val)), val.plan.batch)):
        assert batch.images.shape == (size, 3, 16, 16)
        assert batch.images.dtype == dtype
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.shape == batch.indices.shape == (size,)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert batch.indices.device.type == "cpu"
        assert batch.images.float().isfinite().all()
        assert ((batch.labels >= 0) & (batch.labels < opened.alone.num_classes)).all()
    loader.close()
    val.close()


@pytest.mark.parametrize(("world_size", "accumulate"), LAYOUTS)
def test_global_batches_are_the_same_for_any_layout(dataset, world_size, accumulate):
    """Order, labels and augmented pixels, over the end of an epoch."""
    alone = dataset.train()
    first = alone.steps_per_epoch - 2
    alone.seek(first)
    parts = [dataset.train(rank=rank, world_size=world_size, accumulate=accumulate) for rank in range(world_size)]
    for part in parts:
        assert part.steps_per_epoch == alone.steps_per_epoch
        part.seek(first)
    for _ in range(4):
        together = joined(batch for part in parts for batch in take(part, accumulate))
        assert same(together, next(alone))


def test_an_epoch_shows_each_sample_at_most_once_over_all_ranks(dataset):
    shards = [dataset.train(rank=rank, world_size=3) for rank in range(3)]
    steps = shards[0].steps_per_epoch
    seen = [torch.cat([batch.indices for batch in take(shard, steps)]) for shard in shards]
    assert {len(shard) for shard in seen} == {steps * GLOBAL_BATCH // 3}
    everything = torch.cat(seen)
    assert len(everything.unique()) == len(everything) == steps * GLOBAL_BATCH
    assert everything.min() >= 0
    assert everything.max() < dataset.alone.num_train


def test_labels_belong_to_their_samples(dataset):
    by_index = {}
    loader = dataset.train()
    for batch in take(loader, 2 * loader.steps_per_epoch):
        for index, label in zip(batch.indices.tolist(), batch.labels.tolist(), strict=True):
            assert by_index.setdefault(index, label) == label
    assert len(set(by_index.values())) == dataset.alone.num_classes


def test_epochs_differ_in_order(dataset):
    loader = dataset.train()
    epochs = [torch.cat([batch.indices for batch in take(loader, loader.steps_per_epoch)]) for _ in range(2)]
    assert (epochs[0] == epochs[1]).float().mean() < 0.05


def test_two_seeds_give_two_orders_and_one_seed_one(dataset):
    first, again, other = (dataset.train(seed=seed) for seed in (1, 1, 2))
    batch = next(first)
    assert same(batch, next(again))
    assert (batch.indices == next(other).indices).float().mean() < 0.1


def test_two_seeds_and_two_epochs_give_two_augmentations(dataset, kind):
    """Of real images; random ones are as they are."""

    def pictures(seed, epoch):
        loader = dataset.train(seed=seed)
        loader.seek(epoch * loader.steps_per_epoch)
        batches = joined(take(loader, loader.steps_per_epoch))
        return {int(index): image for index, image in zip(batches.indices, batches.images, strict=True)}

    base, other_seed, other_epoch = pictures(1, 0), pictures(2, 0), pictures(1, 1)
    for other in (other_seed, other_epoch):
        common = sorted(base.keys() & other.keys())[:400]
        differ = np.mean([not torch.equal(base[index], other[index]) for index in common])
        if kind == "synthetic":
            assert differ == 0
        else:
            assert differ > (0.35 if kind == "dali-flip" else 0.9)  # a flip alone changes half of them


@pytest.mark.parametrize("micro", [0, 1])
def test_restored_in_mid_epoch_it_goes_on_exactly(dataset, micro):
    straight = dataset.train(accumulate=2)
    start = (straight.steps_per_epoch - 3) * 2
    straight.seek(straight.steps_per_epoch - 3)
    take(straight, micro + 2)
    state = json.loads(json.dumps(straight.state_dict()))
    expected = take(straight, 8)  # into the next epoch
    fresh = dataset.train(accumulate=2)
    next(fresh)  # a loader that has already prefetched something else
    fresh.load_state_dict(state)
    assert fresh.state_dict() == state
    assert all(same(ours, theirs) for ours, theirs in zip(take(fresh, 8), expected, strict=True))
    assert state["step"] * 2 + state["micro"] == start + micro + 2


def test_state_is_of_what_was_handed_out_and_equal_on_all_ranks(dataset):
    loaders = [dataset.train(rank=rank, world_size=2) for rank in range(2)]
    for loader in loaders:
        take(loader, 5)
    assert loaders[0].state_dict() == loaders[1].state_dict()
    assert loaders[0].state_dict()["step"] == 5


def test_seek_goes_anywhere(dataset):
    loader = dataset.train()
    batches = take(loader, 6)
    for step in (4, 0, 5, 1, 1, 2):
        loader.seek(step)
        assert same(next(loader), batches[step])
    assert same(next(loader), batches[3])


def test_batches_stay_what_they_were(dataset):
    """No buffer of a batch that someone still holds is written again."""
    loader = dataset.train()
    held = take(loader, 12)
    loader.seek(0)
    for batch in held:
        assert same(next(loader), batch)


@pytest.mark.parametrize(
    ("other", "named"),
    [({"seed": 2}, "seed"), ({"world_size": 2}, "world size"), ({"global_batch": 24}, "global_batch")],
)
def test_a_state_of_another_stream_is_refused(dataset, other, named):
    state = dataset.train().state_dict()
    with pytest.raises(UserError, match=rf"checkpoint: .*{named}"):
        dataset.train(**other).load_state_dict(state)


def test_a_state_of_other_data_or_options_is_refused(dataset):
    state = dataset.train().state_dict()
    foreign = copy.deepcopy(state)
    foreign["stream"]["dataset"] = "another"
    with pytest.raises(UserError, match=r"checkpoint: .*dataset 'another'"):
        dataset.train().load_state_dict(foreign)
    foreign = copy.deepcopy(state)
    foreign["stream"]["data.image_size"] = 99
    with pytest.raises(UserError, match=r"checkpoint: .*data.image_size 99"):
        dataset.train().load_state_dict(foreign)


def test_a_global_batch_that_does_not_fit_is_refused(dataset):
    with pytest.raises(UserError, match=r"train.global_batch: 48 cannot be shared by 5 rank"):
        dataset.train(world_size=5)
    with pytest.raises(UserError, match=r"train.global_batch: 1000000 exceeds"):
        dataset.train(global_batch=1_000_000)


@pytest.mark.parametrize(
    ("world_size", "batch"), [(1, 50), (2, 64), (3, 17), (4, 1000), (7, 60)], ids=lambda value: str(value)
)
def test_validation_counts_each_sample_once(dataset, world_size, batch):
    shards = [list(dataset.val(batch, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(shard) for shard in shards}) == 1
    assert len({part.images.shape for shard in shards for part in shard}) == 1
    whole = joined(part for shard in shards for part in shard)
    real = whole.indices >= 0
    np.testing.assert_array_equal(np.sort(whole.indices[real].numpy()), np.arange(dataset.alone.num_val))
    assert torch.equal(whole.labels >= 0, real)
    assert (whole.labels[~real] == -1).all()
    assert (whole.indices[~real] == -1).all()
    assert whole.images.isfinite().all()


def test_a_rank_without_a_sample_takes_part_in_validation(dataset):
    """More ranks than samples could fill: all of them see equally many equal batches."""
    world_size = dataset.alone.num_val - 1
    plans = [dataset.val(500, rank=rank, world_size=world_size).plan for rank in range(world_size)]
    assert {plan.batch for plan in plans} == {2}
    assert {plan.batches for plan in plans} == {1}
    (last,) = dataset.val(500, rank=world_size - 1, world_size=world_size)
    assert last.indices.tolist() == last.labels.tolist() == [-1, -1]
    assert last.images.shape[0] == 2


def test_validation_does_not_depend_on_layout_or_pass(dataset):
    loader = dataset.val(40)
    first = {int(i): image for part in loader for i, image in zip(part.indices, part.images, strict=True)}
    next(iter(loader))  # a pass given up after its first batch
    for part in [*loader, *dataset.val(64, rank=0, world_size=2), *dataset.val(64, rank=1, world_size=2)]:
        for index, image in zip(part.indices.tolist(), part.images, strict=True):
            assert index < 0 or torch.equal(image, first[index])
