"""Decoded images that are kept for later jobs."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from elth_dist.data import data_options, decoded
from elth_dist.data.dataset import open_dataset
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks
from tests.data.images import write_small_photos
from tests.helpers.ranks import run_ranks


def spoil(root: Path) -> None:
    """Overwrite every image by zeros, and leave names, sizes and modification times as they were."""
    for path in root.rglob("*.jpg"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def pixels(root: Path, cache: Path | None, ranks: Ranks | None = None, **options) -> torch.Tensor:
    """All training and validation images, opened as a job opens them."""
    given = {"name": "folder", "loader": "resident", "image_size": 16, "resize": 16, "augment": "none", "flip": False}
    data = data_options(**given | {"root": root, "threads": 1} | options)
    dataset = open_dataset(data, ranks or Ranks(), default_root=root, dtype=torch.float32, cache=cache)
    (val,) = dataset.val_loader(batch=7)
    train = next(dataset.train_loader(seed=1, global_batch=6))
    return torch.cat([train.images[train.indices.argsort()], val.images])


def test_a_later_job_reads_what_an_earlier_one_decoded(tmp_path):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "cache" / "deeper"
    plain = pixels(root, None)
    assert not cache.exists()
    assert torch.equal(pixels(root, cache), plain)
    (file,) = cache.iterdir()
    before = file.stat()
    spoil(root)
    assert torch.equal(pixels(root, cache), plain), "the images were decoded again"
    assert file.stat() == before
    with pytest.raises(UserError, match="does not decode"):
        pixels(root, None)


def test_a_moved_dataset_is_the_same(tmp_path):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "cache"
    plain = pixels(root, cache)
    moved = root.rename(tmp_path / "moved")
    spoil(moved)
    assert torch.equal(pixels(moved, cache), plain)


def test_the_option_comes_before_the_run_directory(tmp_path):
    root = write_small_photos(tmp_path / "images")
    options = data_options(name="cifar10", root=root, threads=1, image_size=16, resize=16, cache=tmp_path / "own")
    open_dataset(options, Ranks(), default_root=tmp_path, dtype=torch.float32, cache=tmp_path / "run")
    assert len(list((tmp_path / "own").iterdir())) == 1
    assert not (tmp_path / "run").exists()


def replace(root: Path) -> None:
    path = root / "train" / "cat" / "0.jpg"
    path.write_bytes(path.with_name("2.jpg").read_bytes())


def touch(root: Path) -> None:
    path = root / "val" / "dog" / "7.jpg"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def add(root: Path) -> None:
    shutil.copy2(root / "val" / "dog" / "7.jpg", root / "val" / "dog" / "8.jpg")


def move(root: Path) -> None:
    (root / "val" / "dog" / "7.jpg").rename(root / "val" / "cat" / "7.jpg")


@pytest.mark.parametrize("change", [replace, touch, add, move])
def test_changed_files_are_decoded_again(tmp_path, change):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "cache"
    pixels(root, cache)
    change(root)
    plain = pixels(root, None)
    assert torch.equal(pixels(root, cache), plain)
    assert len(list(cache.iterdir())) == 2


def test_each_size_has_its_own_file(tmp_path):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "cache"
    for size, resize in ((16, 16), (12, 16), (12, 12)):
        options = {"image_size": size, "resize": resize}
        assert torch.equal(pixels(root, cache, **options), pixels(root, None, **options))
    assert len(list(cache.iterdir())) == 3


def test_large_sets_are_decoded_by_every_job(tmp_path, monkeypatch):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "cache"
    monkeypatch.setattr(decoded, "_LARGEST", 12 * 16 * 16 * 3 - 1)
    pixels(root, cache)
    assert not cache.exists()
    monkeypatch.setattr(decoded, "_LARGEST", 12 * 16 * 16 * 3)
    pixels(root, cache)
    assert cache.exists()


def flip_a_pixel(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def no_safetensors(file: Path) -> None:
    file.write_bytes(b"\xff" * 1000)


def without_metadata(file: Path) -> None:
    save_file(load_file(file), file)


def other_shapes(file: Path) -> None:
    save_file({name: images[:1] for name, images in load_file(file).items()}, file, {"decoded_images": "{}"})


def other_metadata(file: Path) -> None:
    save_file(load_file(file), file, {"decoded_images": "[1"})


def one_split(file: Path) -> None:
    save_file({"train": load_file(file)["train"]}, file, {"decoded_images": "{}"})


@pytest.mark.parametrize(
    "damage",
    [flip_a_pixel, truncate, empty, no_safetensors, without_metadata, other_shapes, other_metadata, one_split],
)
def test_a_damaged_file_is_written_again(tmp_path, damage, caplog):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "cache"
    plain = pixels(root, cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    damage(file)
    assert torch.equal(pixels(root, cache), plain)
    (warning,) = caplog.messages
    assert warning.startswith(f"data.cache: {file} is damaged (")
    assert warning.endswith("): decoding the images again")
    assert file.read_bytes() == whole
    assert list(cache.iterdir()) == [file]


def test_a_file_of_other_images_under_this_name_is_not_read(tmp_path, caplog):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "cache"
    pixels(root, cache)
    (first,) = cache.iterdir()
    replace(root)
    plain = pixels(root, cache)
    (second,) = set(cache.iterdir()) - {first}
    shutil.copy(first, second)
    assert torch.equal(pixels(root, cache), plain)
    assert "is damaged (its contents are not those that were written)" in caplog.text


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "file" / "cache"
    cache.parent.write_text("not a folder")
    assert torch.equal(pixels(root, cache), pixels(root, None))
    (warning,) = caplog.messages
    assert warning == f"data.cache: {cache}: cannot keep the decoded images there: Not a directory"


def on_ranks(ranks, root, cache):
    torch.set_num_threads(1)
    data = {"name": "folder", "loader": "resident", "image_size": 16, "resize": 16, "augment": "none", "flip": False}
    options = data_options(**data, root=root, threads=1, cache=cache)
    dataset = open_dataset(options, ranks, default_root=Path(root), dtype=torch.float32)
    return dataset.fingerprint, [batch.images.sum().item() for batch in dataset.val_loader(batch=3)]


def test_rank_0_reads_and_writes_for_all(tmp_path):
    root, cache = write_small_photos(tmp_path / "images"), tmp_path / "cache"
    decoded = [result.value for result in run_ranks(on_ranks, 2, args=[str(root), str(cache)])]
    spoil(root)
    assert [result.value for result in run_ranks(on_ranks, 2, args=[str(root), str(cache)])] == decoded
    assert decoded[0][0] == decoded[1][0]
    assert len(list(cache.iterdir())) == 1
