import subprocess
import sys

import pytest
from pydantic import ValidationError

from elth_dist.data import data_options
from elth_dist.data.datasets.digits import Digits
from elth_dist.jobs.setting import Setting


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "folder", "imagenet", "mnist", "svhn", "synthetic"])
def test_presets_are_valid_and_print_as_they_read(name):
    options = data_options(name=name)
    assert data_options(**options.model_dump(mode="json")) == options
    assert options.identity() == data_options(**options.model_dump(mode="json")).identity()


def test_presets_fill_what_is_not_said():
    imagenet = data_options(name="imagenet")
    assert (imagenet.loader, imagenet.image_size, imagenet.resize, imagenet.augment) == (
        "dali",
        224,
        256,
        "resized_crop",
    )
    assert (imagenet.scale, imagenet.ratio, imagenet.flip) == ((0.08, 1.0), (3 / 4, 4 / 3), True)
    authors = data_options(name="imagenet", scale=(0.1, 1.0), ratio=(0.8, 1.25))
    assert (authors.scale, authors.ratio) == ((0.1, 1.0), (0.8, 1.25))
    cifar = data_options(name="cifar10")
    assert (cifar.loader, cifar.image_size, cifar.resize, cifar.augment, cifar.pad) == (
        "resident",
        32,
        32,
        "pad_crop",
        4,
    )
    digits = data_options(name="digits")
    assert (digits.loader, digits.image_size, digits.pad, digits.flip) == ("dali", 16, 2, False)
    assert data_options(name="digits", image_size=32).resize == 32
    assert data_options(name="synthetic").num_train == 1_281_167


def test_identity_leaves_out_what_cannot_change_a_result(tmp_path):
    plain = data_options(name="cifar10")
    moved = data_options(name="cifar10", root=tmp_path, threads=3, prefetch=5, verify="decode")
    assert moved.identity() == plain.identity()
    assert data_options(name="cifar10", pad=3).identity() != plain.identity()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "imagnet"}, "imagenet"),
        ({"name": "imagenet", "rezise": 1}, "rezise"),
        ({"name": "imagenet", "image_size": 0}, "image_size"),
        ({"name": "imagenet", "resize": 200}, "resize 200 is smaller than image_size 224"),
        ({"name": "imagenet", "loader": "resident"}, "one size"),
        ({"name": "imagenet", "loader": "synthetic"}, "synthetic"),
        ({"name": "synthetic", "loader": "dali"}, "synthetic"),
        ({"name": "synthetic", "flip": True}, "not augmented"),
        ({"name": "synthetic", "num_val": None}, "num_val is null"),
        ({"name": "digits", "num_train": 5}, "num_train is for synthetic data only"),
        ({"name": "digits", "pad": 17}, "pad 17 exceeds"),
        ({"name": "imagenet", "scale": (0.5, 0.1)}, "scale"),
        ({"name": "imagenet", "scale": (0.0, 1.0)}, "scale"),
        ({"name": "imagenet", "ratio": (2.0, 1.0)}, "ratio"),
        ({"name": "imagenet", "std": (0.2, 0.0, 0.2)}, "std"),
        ({"name": "imagenet", "mean": (0.2, 0.0, 100.0)}, "mean"),
        ({"name": "imagenet", "threads": 0}, "threads"),
        ({"name": "imagenet", "hw_decoder_load": 1.5}, "hw_decoder_load"),
    ],
)
def test_what_makes_no_sense_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        data_options(**given)


def test_a_dataset_must_be_named():
    with pytest.raises(
        ValidationError, match=r"data\n.*is required; valid are cifar10, cifar100, digits, folder, imagenet, mnist, "
    ):
        Setting.model_validate({"model": {"arch": "resnet18"}, "data": {"image_size": 16}})
    with pytest.raises(TypeError, match="name"):
        data_options()


@pytest.mark.parametrize("given", [{"name": "digits", "image_size": 8}, "digits"])
def test_a_section_is_options_of_its_dataset(given):
    setting = Setting.model_validate({"model": {"arch": "resnet14_cifar"}, "data": given})
    assert type(setting.data) is Digits
    assert Setting.model_validate(setting.model_dump(mode="json")) == setting
    assert setting.identity()["data"] == setting.data.identity()


def test_sizes_are_known_without_opening(tmp_path):
    known = {
        name: data_options(name=name).known_size() for name in ("imagenet", "cifar10", "digits", "synthetic", "folder")
    }
    imagenet = (1_281_167, 1000)
    sizes = {"imagenet": imagenet, "cifar10": (50_000, 10), "digits": (1442, 10), "synthetic": imagenet, "folder": None}
    assert known == sizes
    for name in ("imagenet", "cifar10", "folder"):
        assert data_options(name=name, root=tmp_path).known_size() is None, "a folder must be counted"


@pytest.mark.parametrize(
    "module",
    [
        "elth_dist.data",
        "elth_dist.data.memory",
        "elth_dist.data.datasets.cifar10",
        "elth_dist.data.options",
        "elth_dist.data.catalog",
    ],
)
def test_options_are_there_without_torch(module):
    script = f"import sys, {module}; assert not {{'torch', 'nvidia.dali', 'torchvision'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
