"""Opening a dataset on several real ranks."""

from pathlib import Path

import pytest
import torch

from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks
from tests.helpers.ranks import run_ranks


def open_and_read(ranks, options, root):
    torch.set_num_threads(1)
    try:
        dataset = open_dataset(data_options(**options), ranks, default_root=Path(root), dtype=torch.float32)
    except UserError as error:
        return str(error)
    loader = dataset.train_loader(seed=1, global_batch=20)
    batch = next(loader)
    loader.close()
    return [dataset.fingerprint, dataset.num_train, batch.indices.tolist(), batch.images.double().sum().item()]


@pytest.mark.parametrize("loader", ["dali", "resident"])
def test_rank_0_writes_and_scans_for_all(tmp_path, loader):
    options = {"name": "digits", "loader": loader, "threads": 1}
    first, second = (result.value for result in run_ranks(open_and_read, 2, args=[options, str(tmp_path)]))
    assert first[:2] == second[:2]
    assert first[1] == 1442
    assert not set(first[2]) & set(second[2])
    alone = open_and_read(Ranks(), options, str(tmp_path))
    assert alone[0] == first[0]  # of all pixels, for the resident loader
    assert alone[2] == first[2] + second[2]
    assert alone[3] == pytest.approx(first[3] + second[3])
    assert [path.name for path in tmp_path.iterdir()] == ["digits-16px"]


def test_every_rank_meets_the_same_mistake(photos, tmp_path):
    for split in ("train", "val"):
        for cls in ("cat", "dog"):
            (tmp_path / split / cls).mkdir(parents=True)
            for source in (photos / split / cls).iterdir():
                (tmp_path / split / cls / source.name).write_bytes(source.read_bytes())
    victim = next((tmp_path / "val" / "dog").iterdir())
    victim.write_bytes(b"no image")
    options = {"name": "folder", "root": str(tmp_path), "threads": 1, "verify": "decode"}
    first, second = (result.value for result in run_ranks(open_and_read, 2, args=[options, str(tmp_path)]))
    assert first == second
    assert first.startswith(f"data.root: these images do not decode: {victim} (")
    missing = options | {"root": str(tmp_path / "nowhere")}
    first, second = (result.value for result in run_ranks(open_and_read, 2, args=[missing, str(tmp_path)]))
    assert first == second
    assert "no folder" in first
