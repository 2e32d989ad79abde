"""DALI's pixels against torchvision's, and what happens when a file is broken."""

import itertools
import math
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as tv

from elth_dist.data import data_options, sampling
from elth_dist.data.catalog import Split, scan
from elth_dist.data.dali import FileNames
from elth_dist.data.dataset import open_dataset
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks
from tests.data.images import smooth_image

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample-a.tar"
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # leaves pixels in [0, 1]


def opened(root, dtype=torch.float32, **given):
    options = data_options(**({"name": "folder", "root": root, "threads": 2} | given))
    return open_dataset(options, Ranks(), default_root=root, dtype=dtype)


@pytest.fixture(scope="module")
def real_photos(tmp_path_factory):
    """40 JPEGs of ImageNet, the same ones as train/ and val/."""
    if not SAMPLE.is_file():
        pytest.skip(f"no {SAMPLE.name} beside the repository (../shared/data)")
    root = tmp_path_factory.mktemp("imagenet")
    with tarfile.open(SAMPLE) as archive:
        members = sorted((m for m in archive.getmembers() if m.isfile()), key=lambda m: m.name)[::12][:40]
        archive.extractall(root / "train", members, filter="data")
    (root / "val").symlink_to(root / "train")
    return root


@pytest.fixture(params=["generated", "real"])
def any_photos(request, photos):
    return photos if request.param == "generated" else request.getfixturevalue("real_photos")


def test_evaluation_sees_torchvisions_pixels(any_photos):
    """Resize(256) and CenterCrop(224) on PIL images: no value differs by more than 1 of 255."""
    dataset = opened(any_photos, **RAW)
    reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    split = scan(any_photos).val
    loader = dataset.val_loader(batch=8)
    for batch in loader:
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            if index >= 0:
                with Image.open(split.path(index)) as file:
                    expected = reference(file.convert("RGB"))
                difference = (image * 255 - expected).abs()
                assert difference.max() < 1.01
                assert difference.mean() < 0.5
    loader.close()


def test_normalised_evaluation_sees_torchvisions_values(photos):
    """The whole of torchvision's evaluation, mean and deviation included: within 1/255 of a pixel over its std."""
    dataset = opened(photos)
    options = data_options(name="folder")
    reference = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(options.mean, options.std),
        ]
    )
    split = scan(photos).val
    loader = dataset.val_loader(batch=6)
    (batch,) = loader
    for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
        with Image.open(split.path(index)) as file:
            assert (image - reference(file.convert("RGB"))).abs().max() < 1.01 / 255 / min(options.std)
    loader.close()


def window_of(height, width, candidates, position):
    for tall, wide in candidates * math.sqrt(height * width):
        shape = round(tall), round(wide)
        if shape[0] <= height and shape[1] <= width:
            room = height - shape[0], width - shape[1]
            return (*(math.floor(place * (free + 1)) for place, free in zip(position, room, strict=True)), *shape)
    raise AssertionError("these images fit some candidate")


def test_training_sees_torchvisions_crops(any_photos):
    """RandomResizedCrop and flip, with our numbers: within half a level on average; single ones differ by more, since
    a decoder that reads a window alone knows no chroma beyond its edge."""
    dataset = opened(any_photos, **RAW)
    batch_size = min(dataset.num_train, 20)
    loader = dataset.train_loader(seed=4, global_batch=batch_size)
    split = scan(any_photos).train
    loader.seek(3)
    batch = next(loader)
    epoch = 3 // loader.steps_per_epoch
    options = data_options(name="folder")
    numbers = sampling.crop_numbers(4, epoch, batch.indices.numpy(), options.scale, options.ratio, options.flip)
    assert 0 < numbers[2].sum() < batch_size
    for image, index, candidates, position, mirror in zip(batch.images, batch.indices.tolist(), *numbers, strict=True):
        with Image.open(split.path(index)) as file:
            picture = file.convert("RGB")
        window = window_of(picture.height, picture.width, candidates, position)
        expected = tv.pil_to_tensor(tv.resized_crop(picture, *window, [224, 224], antialias=True))
        difference = (image * 255 - (expected.flip(-1) if mirror else expected)).abs()
        assert difference.mean() < 0.5
        assert difference.quantile(0.999) <= 4
    loader.close()


@pytest.mark.parametrize("augment", ["pad_crop", "none"])
@pytest.mark.parametrize("flip", [True, False])
def test_dali_and_the_resident_loader_show_the_same_pictures(digits, augment, flip):
    """Two implementations of everything, one of them plain tensor arithmetic."""
    batches = []
    for loader in ("dali", "resident"):
        options = {"name": "digits", "loader": loader, "augment": augment, "flip": flip, "threads": 2}
        dataset = open_dataset(data_options(**options), Ranks(), default_root=digits.parent, dtype=torch.float32)
        train, val = dataset.train_loader(seed=3, global_batch=100), dataset.val_loader(batch=90)
        train.seek(13)
        batches.append([next(train), next(train), *val])
        train.close()
        val.close()
    for ours, theirs in zip(*batches, strict=True):
        torch.testing.assert_close(ours.images, theirs.images, atol=2e-5, rtol=0)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.indices, theirs.indices)


def test_every_kind_of_image_file_reads_as_by_pil(tmp_path):
    """Grey, CMYK and progressive JPEGs, PNGs with a palette, with transparency and in disguise; EXIF never rotates."""
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
    picture = smooth_image(64, 48, 0)
    turned = Image.Exif()
    turned[0x0112] = 6
    folder = tmp_path / "val" / "a"
    picture.convert("L").save(folder / "grey.jpg", quality=95)
    picture.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    picture.save(folder / "progressive.JPEG", progressive=True)
    picture.save(folder / "turned.jpeg", exif=turned)
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "transparent.PNG")
    picture.save(tmp_path / "disguise", format="png")
    (tmp_path / "disguise").rename(folder / "disguise.jpg")
    (tmp_path / "train" / "a" / "1.jpg").write_bytes((folder / "grey.jpg").read_bytes())
    loader = opened(tmp_path, resize=48, image_size=48, **RAW).val_loader(batch=7)
    (batch,) = loader
    names = scan(tmp_path).val.names
    assert len(names) == 7
    for name, image in zip(names, batch.images, strict=True):
        with Image.open(tmp_path / "val" / name) as file:
            expected = tv.pil_to_tensor(tv.center_crop(file.convert("RGB"), [48, 48]))
        assert (image * 255 - expected).abs().max() < 1.01, name
    loader.close()


def test_file_names_are_rows_of_one_length_that_open(tmp_path):
    names = ["a.jpg", "longer.jpg", "ünïcode.jpg", os.fsdecode(b"\xff.jpg")]
    for name in names:
        (tmp_path / "c" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "c" / name).write_text(ascii(name))
    rows = FileNames(Split(tmp_path, {"c": names}))(np.array([3, 0, 1, 2, 0]))
    assert rows.dtype == np.uint8
    assert [Path(os.fsdecode(row.tobytes())).read_text() for row in rows] == [ascii(names[k]) for k in (3, 0, 1, 2, 0)]


BREAKAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello " * 100),
    "gone": lambda path: path.unlink(),
}


@pytest.fixture
def breakable(digits, tmp_path):
    """Twelve digits a split, and one of them to break."""
    for split in ("train", "val"):
        for cls in "01":
            (tmp_path / split / cls).mkdir(parents=True)
            for source in sorted((digits / split / cls).iterdir())[:6]:
                (tmp_path / split / cls / source.name).write_bytes(source.read_bytes())
    return tmp_path


SMALL = {"image_size": 16, "resize": 16}


@pytest.mark.parametrize("breakage", BREAKAGES)
@pytest.mark.parametrize("augment", ["pad_crop", "resized_crop"])
def test_a_file_that_breaks_is_named_when_it_is_met(breakable, breakage, augment):
    dataset = opened(breakable, augment=augment, **SMALL)
    victim = scan(breakable).train.path(7)
    BREAKAGES[breakage](victim)
    loader = dataset.train_loader(seed=0, global_batch=4)
    # a window may lie in the half of a truncated file that is there: then it is not met yet
    epochs = 20 if (breakage, augment) == ("truncated", "resized_crop") else 1
    with pytest.raises(UserError, match=rf"data.root: {victim} does not decode as an image \(.+\)"):
        list(itertools.islice(loader, epochs * loader.steps_per_epoch))
    loader.close()


def test_a_broken_validation_file_is_named(breakable):
    victim = scan(breakable).val.path(3)
    dataset = opened(breakable, **SMALL)
    BREAKAGES["truncated"](victim)
    with pytest.raises(UserError, match=rf"data.root: {victim} does not decode as an image \(.+\)"):
        list(dataset.val_loader(batch=5))


def test_verification_names_all_broken_files(breakable):
    opened(breakable, verify="decode", **SMALL)
    found = scan(breakable)
    victims = [found.train.path(2), found.train.path(9), found.val.path(0)]
    for victim, breakage in zip(victims, ("truncated", "empty", "text"), strict=True):
        BREAKAGES[breakage](victim)
    with pytest.raises(UserError, match=r"data.root: these images do not decode") as caught:
        opened(breakable, verify="decode", **SMALL)
    assert all(str(victim) in str(caught.value) for victim in victims)
    assert str(found.train.path(3)) not in str(caught.value)


def test_verification_names_at_most_five(breakable):
    for index in range(7):
        BREAKAGES["empty"](scan(breakable).train.path(index))
    with pytest.raises(UserError, match=r"and 2 more$"):
        opened(breakable, verify="decode", **SMALL)
