import subprocess
import sys

import pytest
from pydantic import ValidationError

from elth_dist.data.options import PRESETS, DataOptions


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_print_as_they_read(name):
    options = DataOptions(name=name)
    assert DataOptions(**options.model_dump(mode="json")) == options
    assert options.identity() == DataOptions(**options.model_dump(mode="json")).identity()


def test_presets_fill_what_is_not_said():
    imagenet = DataOptions(name="imagenet")
    assert (imagenet.loader, imagenet.image_size, imagenet.resize, imagenet.augment) == (
        "dali",
        224,
        256,
        "resized_crop",
    )
    assert (imagenet.scale, imagenet.ratio, imagenet.flip) == ((0.08, 1.0), (3 / 4, 4 / 3), True)
    authors = DataOptions(name="imagenet", scale=(0.1, 1.0), ratio=(0.8, 1.25))
    assert (authors.scale, authors.ratio) == ((0.1, 1.0), (0.8, 1.25))
    cifar = DataOptions(name="cifar10")
    assert (cifar.loader, cifar.image_size, cifar.resize, cifar.augment, cifar.pad) == (
        "resident",
        32,
        32,
        "pad_crop",
        4,
    )
    digits = DataOptions(name="digits")
    assert (digits.loader, digits.image_size, digits.pad, digits.flip) == ("dali", 16, 2, False)
    assert DataOptions(name="digits", image_size=32).resize == 32
    assert DataOptions(name="synthetic").num_train == 1_281_167


def test_identity_leaves_out_what_cannot_change_a_result(tmp_path):
    plain = DataOptions(name="cifar10")
    moved = DataOptions(name="cifar10", root=tmp_path, threads=3, prefetch=5, verify="decode")
    assert moved.identity() == plain.identity()
    assert DataOptions(name="cifar10", pad=3).identity() != plain.identity()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "imagnet"}, "imagenet"),
        ({}, "name"),
        ({"name": "imagenet", "rezise": 1}, "rezise"),
        ({"name": "imagenet", "image_size": 0}, "image_size"),
        ({"name": "imagenet", "resize": 200}, "resize 200 is smaller than image_size 224"),
        ({"name": "imagenet", "loader": "resident"}, "one size"),
        ({"name": "imagenet", "loader": "synthetic"}, "synthetic"),
        ({"name": "synthetic", "loader": "dali"}, "synthetic"),
        ({"name": "synthetic", "flip": True}, "not augmented"),
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
        DataOptions(**given)


@pytest.mark.parametrize("module", ["elth_dist.data", "elth_dist.data.options", "elth_dist.data.catalog"])
def test_options_are_there_without_torch(module):
    script = f"import sys, {module}; assert not {{'torch', 'nvidia.dali', 'torchvision'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
