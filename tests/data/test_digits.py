import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from elth_dist.data import data_options
from elth_dist.data.catalog import scan
from elth_dist.data.dataset import open_dataset
from elth_dist.data.datasets.digits import TRAIN_SIZE, write_digits
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks


def test_all_scans_are_there_split_by_class(digits):
    found = scan(digits)
    assert found.classes == tuple("0123456789")
    assert len(found.train) + len(found.val) == 1797
    assert len(found.train) == TRAIN_SIZE
    train, val = np.bincount(found.train.labels), np.bincount(found.val.labels)
    np.testing.assert_array_equal(train + val, np.bincount(load_digits().target))
    np.testing.assert_array_equal(val, (train + val) // 5)
    numbers = {Path(name).stem for split in (found.train, found.val) for name in split.names}
    assert len(numbers) == 1797  # no scan is in both


def test_images_show_the_scans(digits):
    scans = load_digits()
    found = scan(digits)
    for index in range(0, len(found.val), 40):
        path = found.val.path(index)
        image = Image.open(path)
        assert image.size == (16, 16)
        number = int(path.stem)
        assert found.val.labels[index] == scans.target[number]
        small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=float)
        assert np.corrcoef(small.ravel(), scans.images[number].ravel())[0, 1] > 0.95


def test_a_written_tree_is_left_alone(tmp_path):
    """The folder that holds it is not touched either: nothing was written next to it."""
    digits = write_digits(tmp_path, 8)
    next(digits.rglob("*.jpg")).write_bytes(b"changed")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))}
    assert write_digits(tmp_path, 8) == digits
    assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))} == before


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(self, target):
        raise PermissionError("no")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError):
        write_digits(tmp_path, 8)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_users_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run.dir: cannot write the digits to \S+file/below/digits-16px: Not a dir"):
        open_dataset(
            data_options(name="digits"), Ranks(), default_root=tmp_path / "file" / "below", dtype=torch.float32
        )


def test_nothing_is_written_into_a_folder_of_the_users(tmp_path):
    options = data_options(name="digits", root=tmp_path)
    with pytest.raises(UserError, match=r"data.root: \S+ is not read for 'digits'"):
        options.check()
    with pytest.raises(UserError, match=r"data.root: \S+ is not read for 'digits'"):
        open_dataset(options, Ranks(), default_root=tmp_path / "run", dtype=torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_give_one_tree(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(write_digits, [(tmp_path, 8)] * 2)
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == ["digits-8px"]
    assert len(scan(first).train) == 1442
