"""One job of a sweep, done in this process."""

import os
from pathlib import Path

import pytest
import yaml

from elth_dist.sweeps.folder import SweepFolder
from elth_dist.sweeps.plan import plan_sweep
from elth_dist.sweeps.worker import do
from tests.data.images import write_small_photos
from tests.helpers.ranks import REPOSITORY


@pytest.mark.parametrize("version", ["0.1.0", "now"])
def test_jobs_share_the_digits_of_their_sweep(tmp_path: Path, version: str) -> None:
    """Version 0.1.0 wrote their place into each job's configuration, as data.root."""
    sweep = {
        "recipe": str(REPOSITORY / "configs/quickstart_fast.yaml"),
        "overrides": {
            "data": {"image_size": 8, "loader": "resident"},
            "train": {"epochs": 1, "global_batch": 120, "milestones": []},
        },
        "experiments": [
            {"sources": ["resnet8_cifar"], "methods": [{"levels": 1, "rewind": "1it", "controls": []}]},
        ],
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(sweep))
    folder = SweepFolder(tmp_path / "out")
    job = next(iter(plan_sweep(path).jobs.values()))
    config = yaml.safe_load(job.config.to_yaml())
    assert config["data"]["root"] is None
    if version == "0.1.0":
        config["data"]["root"] = str(folder.digits)
    folder.logs(job.name).mkdir(parents=True)
    folder.config(job.name).write_text(yaml.safe_dump(config))
    assert do(folder, job.name) is None
    assert job.name.endswith(folder.job(job.name).read().identity[:12])
    assert [path.name for path in folder.digits.iterdir()] == ["digits-8px"]
    assert list(folder.logs(job.name).glob("digits*")) == []


def test_jobs_share_the_decoded_images_of_their_sweep(tmp_path: Path) -> None:
    """After the first job the files hold zeros, which do not decode: later jobs read the decoded images."""
    root = write_small_photos(tmp_path / "images")
    data = {"name": "cifar10", "root": str(root), "image_size": 16, "resize": 16, "pad": 2}
    sweep = {
        "recipe": str(REPOSITORY / "configs/cifar10/resnet20_imp.yaml"),
        "overrides": {"data": data, "train": {"epochs": 1, "global_batch": 6, "milestones": [], "precision": "fp32"}},
        "experiments": [
            {"sources": ["resnet8_cifar"], "methods": [{"levels": 1, "rewind": 0, "controls": []}]},
        ],
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(sweep))
    folder = SweepFolder(tmp_path / "out")
    for job in plan_sweep(path).jobs.values():
        folder.write_config(job.name, job.config)
        assert do(folder, job.name) is None
        (kept,) = (folder.root / "decoded").iterdir()
        assert list(folder.logs(job.name).glob("decoded*")) == []
        for image in root.rglob("*.jpg"):
            status = image.stat()
            image.write_bytes(bytes(status.st_size))
            os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.name.startswith("cifar10-16px-")
