import os
from pathlib import Path

import numpy as np
import pytest

from elth_dist.data import data_options, options
from elth_dist.data.catalog import Catalog, scan
from elth_dist.errors import UserError


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_scan_sorts_classes_and_files(tmp_path):
    root = tree(
        tmp_path,
        *("train/b/2.JPEG", "train/b/10.jpg", "train/a/x.PNG", "train/a/notes.txt", "train/.hidden/1.jpg"),
        *("train/readme.jpg", "val/a/1.jpeg", "val/b/1.jpg"),
    )
    found = scan(root)
    assert found.classes == ("a", "b")
    assert found.train.names == ["a/x.PNG", "b/10.jpg", "b/2.JPEG"]
    np.testing.assert_array_equal(found.train.labels, [0, 1, 1])
    assert found.train.labels.dtype == np.int64
    assert found.train.path(2) == root / "train" / "b" / "2.JPEG"
    assert len(found.val) == 2


def test_test_stands_in_for_val_and_val_comes_first(tmp_path):
    root = tree(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg")
    assert scan(root).val.folder == root / "test"
    tree(root, "val/a/1.jpg", "val/b/1.jpg")
    assert scan(root).val.folder == root / "val"


def test_links_are_followed_and_dangling_ones_named(tmp_path):
    store = tree(tmp_path / "store", "a/1.jpg", "b/1.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "train").symlink_to(store)
    (root / "val").mkdir()
    for cls in "ab":
        (root / "val" / cls).symlink_to(store / cls)
    (store / "a" / "2.jpg").symlink_to(store / "b" / "1.jpg")
    found = scan(root)
    assert found.train.names == found.val.names == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    (store / "b" / "9.jpg").symlink_to(store / "gone.jpg")
    with pytest.raises(UserError, match=r"b/9\.jpg is a link that leads to no file"):
        scan(root)


def test_catalog_survives_json_with_any_file_name(tmp_path):
    root = tree(tmp_path, "train/a/ünï.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg")
    (root / "train" / "a" / os.fsdecode(b"\xff\xfe.jpg")).touch()
    found = scan(root)
    again = Catalog.from_json(found.to_json())
    assert again.train.names == found.train.names
    assert again.fingerprint == found.fingerprint


def test_fingerprint_is_of_the_names_and_not_of_the_place(tmp_path):
    files = ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg"]
    here, there = tree(tmp_path / "here", *files), tree(tmp_path / "there", *files)
    assert scan(here).fingerprint == scan(there).fingerprint
    tree(there, "val/a/2.jpg")
    assert scan(here).fingerprint != scan(there).fingerprint


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no train/"),
        (["train/a/1.jpg"], "has no val/"),
        (["train/1.jpg", "val/a/1.jpg"], "has no class folders"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg"], r"class 'b' is in \S+train but not in \S+val"),
        (["train/a/1.jpg", "val/a/1.jpg", "val/c/1.jpg"], r"class 'c' is in \S+val but not in \S+train"),
        (["train/a/1.jpg", "train/b/1.txt", "val/a/1.jpg", "val/b/1.jpg"], r"class folder \S+train/b holds no image"),
    ],
)
def test_what_is_wrong_with_a_tree_is_named(tmp_path, files, message):
    root = tree(tmp_path / "data", *files)
    root.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message):
        scan(root)


def test_checks_before_the_start(tmp_path, monkeypatch):
    data_options(name="digits").check()
    data_options(name="synthetic").check()
    with pytest.raises(UserError, match=r"data.root: 'imagenet' needs the folder"):
        data_options(name="imagenet").check()
    with pytest.raises(UserError, match=r"data.root: no folder \S+nowhere"):
        data_options(name="imagenet", root=tmp_path / "nowhere").check()
    batches = tree(tmp_path / "cifar", "cifar-10-batches-py/data_batch_1")
    data_options(name="cifar10", root=batches).check()
    data_options(name="cifar10", root=batches / "cifar-10-batches-py").check()
    with pytest.raises(UserError, match=r"data.loader: 'dali' reads image files"):
        data_options(name="cifar10", loader="dali", root=batches).check()
    monkeypatch.setattr(options, "_dali_installed", lambda: False)
    with pytest.raises(UserError, match=r"data.loader: 'dali' needs the package nvidia-dali-cuda130"):
        data_options(name="digits").check()
