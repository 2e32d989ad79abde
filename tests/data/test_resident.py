import hashlib
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets, transforms

from elth_dist.data import data_options, resident
from elth_dist.data.catalog import scan
from elth_dist.data.dataset import open_dataset
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks


@given(st.integers(1, 9), st.integers(0, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_augment_is_pad_crop_and_mirror_one_by_one(size, pad, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=generator)
    shifts = torch.randint(-pad, pad + 1, (batch, 2), dtype=torch.int32, generator=generator)
    mirror = torch.randint(0, 2, (batch,), dtype=torch.int32, generator=generator)
    result = resident.augment(pixels, shifts, mirror, pad)
    assert result.is_contiguous()
    for image, (down, right), turned, ours in zip(pixels, shifts.tolist(), mirror, result, strict=True):
        canvas = torch.zeros(size + 2 * pad, size + 2 * pad, 3, dtype=torch.uint8)
        canvas[pad : pad + size, pad : pad + size] = image
        crop = canvas[pad + down : pad + down + size, pad + right : pad + right + size]
        assert torch.equal(ours, crop.flip(1) if turned else crop)


def test_normaliser_is_torchvisions():
    options = data_options(name="cifar10")
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    ours = resident.Normaliser(options, torch.device("cpu"), torch.float32)(pixels)
    theirs = transforms.Normalize(options.mean, options.std)(pixels.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_decode_is_torchvisions_resize_and_crop(photos):
    split = scan(photos).val
    images = resident.decode(split, resize=64, image_size=48, threads=2)
    reference = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(48), transforms.PILToTensor()])
    for index, ours in enumerate(images.pixels):
        with Image.open(split.path(index)) as file:
            assert torch.equal(ours.permute(2, 0, 1), reference(file.convert("RGB")))
    np.testing.assert_array_equal(images.labels.numpy(), split.labels)


def test_an_undecodable_image_is_named(digits, tmp_path):
    for split in ("train", "val"):
        for cls in "ab":
            (tmp_path / split / cls).mkdir(parents=True)
            whole = next((digits / "train" / "0").iterdir()).read_bytes()
            (tmp_path / split / cls / "1.jpg").write_bytes(whole)
    broken = tmp_path / "train" / "b" / "1.jpg"
    broken.write_bytes(whole[: len(whole) // 2])
    options = data_options(name="folder", loader="resident", root=tmp_path, image_size=16, resize=16, augment="none")
    with pytest.raises(UserError, match=rf"data.root: {broken} does not decode"):
        open_dataset(options, Ranks(), default_root=tmp_path, dtype=torch.float32)


FORMATS = {
    "cifar10": (datasets.CIFAR10, [f"data_batch_{number}" for number in range(1, 6)], "test_batch", "labels", 10),
    "cifar100": (datasets.CIFAR100, ["train"], "test", "fine_labels", 100),
}


@pytest.fixture(params=list(FORMATS))
def python_batches(request, tmp_path, monkeypatch):
    """Training batches and a test batch in a CIFAR format, whose hashes torchvision takes for the real ones."""
    reader, trained, tested, key, classes = FORMATS[request.param]
    folder = tmp_path / reader.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels, labels, sums = [], [], {}
    for name in (*trained, tested):
        pixels.append(random.integers(0, 256, (20 // len(trained), 3072), dtype=np.uint8))
        labels.append(random.integers(0, classes, len(pixels[-1])).tolist())
        (folder / name).write_bytes(pickle.dumps({"data": pixels[-1], key: labels[-1], "coarse_labels": labels[-1]}))
    meta = reader.meta["filename"]
    (folder / meta).write_bytes(pickle.dumps({reader.meta["key"]: [str(number) for number in range(classes)]}))
    for path in folder.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(reader, "train_list", [[name, sums[name]] for name in trained])
    monkeypatch.setattr(reader, "test_list", [[tested, sums[tested]]])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": sums[meta]})
    return request.param, folder, np.concatenate(pixels), labels, classes


@pytest.mark.parametrize("above", [True, False])
def test_python_batches_are_read(python_batches, above):
    name, folder, pixels, labels, classes = python_batches
    options = data_options(name=name, root=folder.parent if above else folder, mean=(0, 0, 0), std=(1, 1, 1))
    assert options.known_size() == (50_000, classes)
    dataset = open_dataset(options, Ranks(), default_root=folder, dtype=torch.float32)
    count = len(pixels) - 20
    assert (dataset.num_classes, dataset.num_train, dataset.num_val) == (classes, 20, count)
    (batch,) = dataset.val_loader(batch=count)
    np.testing.assert_array_equal((batch.images * 255).round().reshape(count, -1).numpy(), pixels[20:])
    assert batch.labels.tolist() == labels[-1]


def test_python_batches_are_opened_only_when_they_are_the_published_ones(python_batches):
    name, folder, *_ = python_batches

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (folder / FORMATS[name][1][-1]).write_bytes(pickle.dumps(Trap()))
    published = name.upper().replace("CIFAR", "CIFAR-")
    with pytest.raises(UserError, match=rf"{folder.name} is incomplete or not the published {published}"):
        open_dataset(data_options(name=name, root=folder.parent), Ranks(), default_root=folder, dtype=torch.float32)


def test_python_batches_have_one_size(python_batches):
    name, folder, *_ = python_batches
    options = data_options(name=name, root=folder, image_size=28)
    with pytest.raises(UserError, match=r"data.image_size: 28, but .* 32 px"):
        open_dataset(options, Ranks(), default_root=folder, dtype=torch.float32)
