"""The loaders on a GPU: DALI's mixed decoding against the CPU's, buffers, streams, and no wait of the host."""

import pytest
import torch

pytest.importorskip("nvidia.dali", reason="DALI is not installed for this python", exc_type=ImportError)

from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.data.datasets.digits import write_digits
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks
from tests.data.images import write_photos

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # leaves pixels in [0, 1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder)
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), 16)


def opened(root, device="cuda", dtype=torch.float32, **given):
    options = data_options(**({"name": "folder", "root": root, "threads": 2} | given))
    target = torch.device(device, 0) if device == "cuda" else torch.device(device)
    return open_dataset(options, Ranks(device=target), default_root=root, dtype=dtype)


def take(loader, count):
    return [next(loader) for _ in range(count)]


def assert_close_pictures(ours, theirs):
    """nvJPEG's transform and upsampling differ from libjpeg-turbo's in the last bits: within 1 level on average."""
    difference = (ours.cpu().float() - theirs.cpu().float()).abs() * 255
    assert difference.mean() < 1
    assert difference.flatten().quantile(0.999) < 8


def test_evaluation_agrees_with_the_cpu(root):
    on_gpu, on_cpu = opened(root, **RAW).val_loader(batch=6), opened(root, "cpu", **RAW).val_loader(batch=6)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert_close_pictures(ours.images, theirs.images)
        assert torch.equal(ours.labels.cpu(), theirs.labels)
        assert torch.equal(ours.indices, theirs.indices)
    on_gpu.close()
    on_cpu.close()


@pytest.mark.parametrize("augment", ["resized_crop", "pad_crop", "none"])
def test_training_agrees_with_the_cpu(root, augment):
    batches = []
    for device in ("cuda", "cpu"):
        loader = opened(root, device, augment=augment, **RAW).train_loader(seed=1, global_batch=3)
        batches.append(take(loader, 6))
        loader.close()
    for ours, theirs in zip(*batches, strict=True):
        assert_close_pictures(ours.images, theirs.images)
        assert torch.equal(ours.labels.cpu(), theirs.labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loader", ["dali", "resident"])
def test_batches_lie_on_the_gpu_channels_last(digits, loader, dtype):
    dataset = opened(digits.parent, name="digits", loader=loader, dtype=dtype)
    train, val = dataset.train_loader(seed=1, global_batch=64), dataset.val_loader(batch=50)
    for batch in (next(train), next(iter(val))):
        assert batch.images.device == batch.labels.device == torch.device("cuda", 0)
        assert batch.images.dtype == dtype
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.indices.device.type == "cpu"
    train.close()
    val.close()


@pytest.mark.parametrize("loader", ["dali", "resident"])
def test_batches_stay_what_they_were_while_the_gpu_lags_behind(digits, loader):
    """The host runs far ahead of a busy stream, and batches are held: no buffer is written before it is read."""
    train = opened(digits.parent, name="digits", loader=loader).train_loader(seed=1, global_batch=128)
    busy = torch.randn(4096, 4096, device="cuda")
    sums, held = [], []
    for _ in range(20):
        for _ in range(5):
            busy = (busy @ busy).clamp(-1, 1)
        batch = next(train)
        sums.append(batch.images.double().sum())
        held.append(batch)
    torch.cuda.synchronize()
    train.seek(0)
    for total, old in zip(sums, held, strict=True):
        torch.cuda.synchronize()
        new = next(train)
        torch.cuda.synchronize()
        torch.testing.assert_close(new.images, old.images, atol=2 / 255, rtol=0)
        torch.testing.assert_close(new.images.double().sum(), total, rtol=1e-4, atol=1)
        assert torch.equal(new.labels, old.labels)
    train.close()


def test_another_stream_of_torch_is_served(digits):
    train = opened(digits.parent, name="digits").train_loader(seed=1, global_batch=128)
    expected = [batch.images.clone() for batch in take(train, 4)]
    train.seek(0)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = [batch.images.clone() for batch in take(train, 4)]
    stream.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2 / 255, rtol=0)
    train.close()


@pytest.mark.parametrize("name", ["dali", "resident", "synthetic"])
def test_the_host_waits_for_nothing(digits, name):
    if name == "synthetic":
        dataset = opened(digits, name=name, image_size=32, num_train=1000)
    else:
        dataset = opened(digits.parent, name="digits", loader=name)
    train = dataset.train_loader(seed=1, global_batch=64)
    take(train, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take(train, 3 * train.steps_per_epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    train.close()


def test_restored_it_goes_on(digits):
    dataset = opened(digits.parent, name="digits")
    train, fresh = (dataset.train_loader(seed=1, global_batch=128) for _ in range(2))
    take(train, 5)
    fresh.load_state_dict(train.state_dict())
    for ours, theirs in zip(take(fresh, 10), take(train, 10), strict=True):
        assert torch.equal(ours.indices, theirs.indices)
        torch.testing.assert_close(ours.images, theirs.images, atol=2 / 255, rtol=0)
    train.close()
    fresh.close()


def test_a_broken_file_is_named(tmp_path):
    write_photos(tmp_path)
    victim = sorted((tmp_path / "train" / "dog").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:300])
    loader = opened(tmp_path).train_loader(seed=0, global_batch=2)
    with pytest.raises(UserError, match=rf"data.root: {victim} does not decode"):
        take(loader, loader.steps_per_epoch)
    with pytest.raises(UserError, match=r"these images do not decode"):
        opened(tmp_path, verify="decode")
