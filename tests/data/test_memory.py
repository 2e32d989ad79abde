"""Datasets that give their images as arrays."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from elth_dist import registry
from elth_dist.data import InMemory, data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.errors import DisagreementError, UserError
from elth_dist.runtime.ranks import Ranks
from tests.data.shapes import Shapes
from tests.helpers.ranks import run_ranks


def opened(options, ranks=None):
    return open_dataset(options, ranks or Ranks(), default_root=Path("nowhere"), dtype=torch.float32)


def read(ranks, options):
    torch.set_num_threads(1)
    dataset = opened(data_options(**options), ranks)
    batch = next(dataset.train_loader(seed=1, global_batch=20))
    return [dataset.fingerprint, dataset.num_train, dataset.num_classes, batch.indices.tolist(), batch.images.tolist()]


def test_a_dataset_from_outside_is_one_class():
    options = data_options(name="shapes")
    assert (options.loader, options.augment, options.image_size, options.resize) == ("resident", "pad_crop", 16, 16)
    assert options.size() == (496, 3)
    dataset = opened(options)
    assert (dataset.num_train, dataset.num_val, dataset.num_classes) == (496, 124, 3)
    plain = opened(data_options(name="shapes", augment="none", flip=False, mean=(0, 0, 0), std=(1, 1, 1)))
    (train, labels), (val, _) = options.images()
    batch = next(plain.train_loader(seed=3, global_batch=50))
    np.testing.assert_array_equal((batch.images.permute(0, 2, 3, 1) * 255).round().numpy(), train[batch.indices])
    assert batch.labels.tolist() == labels[batch.indices].tolist()
    (batch,) = plain.val_loader(batch=124)
    np.testing.assert_array_equal((batch.images.permute(0, 2, 3, 1) * 255).round().numpy(), val[batch.indices])


def test_two_ranks_share_the_batches_of_one():
    options = {"name": "shapes"}
    first, second = (result.value for result in run_ranks(read, 2, args=[options]))
    alone = read(Ranks(), options)
    assert first[:3] == second[:3] == alone[:3]
    assert first[3] + second[3] == alone[3]
    assert first[4] + second[4] == alone[4]


def test_its_identity_names_the_module_that_it_is_from():
    identity = data_options(name="shapes", count=300).identity()
    assert (identity["name"], identity["count"]) == ("shapes", 300)
    assert identity["plugin"]["name"] == "tests"
    assert "plugin" not in data_options(name="digits").identity()


def test_another_fingerprint_for_other_images():
    fingerprints = {opened(data_options(name="shapes", count=count)).fingerprint for count in (300, 301, 300)}
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loader": "dali"}, "loader 'dali' cannot serve 'shapes'; valid are resident"),
        ({"augment": "resized_crop"}, "images of one size"),
        ({"cuont": 4}, "cuont"),
        ({"num_train": 5}, "num_train is for synthetic data only"),
    ],
)
def test_options_are_checked_like_those_of_any_dataset(given, message):
    with pytest.raises(ValidationError, match=message):
        data_options(name="shapes", **given)


def test_an_image_size_that_is_not_theirs():
    with pytest.raises(UserError, match=r"data.image_size: 32, but the images of 'shapes' are of 16 px"):
        opened(data_options(name="shapes", image_size=32))


class Broken(InMemory):
    """Two classes of noise with one thing wrong."""

    preset: ClassVar = {"image_size": 8}

    name: Literal["broken"] = "broken"
    fault: str

    def images(self):
        """As `fault` says."""
        pixels, labels = np.zeros((10, 8, 8, 3), np.uint8), np.arange(10) % 2
        val, val_labels = pixels.copy(), labels.copy()
        match self.fault:
            case "floats":
                val = val / 255
            case "grey":
                pixels = pixels[..., 0]
            case "channels first":
                pixels = pixels.transpose(0, 3, 1, 2)
            case "labels as floats":
                labels = labels / 1
            case "a label missing":
                val_labels = val_labels[1:]
            case "no validation":
                val, val_labels = val[:0], val_labels[:0]
            case "two sizes":
                val = val[:, :4, :4]
            case "labels from 1":
                labels = labels + 1
            case "one class":
                labels = labels * 0
            case "another class":
                val_labels = val_labels + 1
        return (pixels, labels), (val, val_labels)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("floats", r"validation images \[N, S, S, 3\] uint8, not \[10, 8, 8, 3\] float64"),
        ("grey", r"training images \[N, S, S, 3\] uint8, not \[10, 8, 8\] uint8"),
        ("channels first", r"not \[10, 3, 8, 8\] uint8"),
        ("labels as floats", r"10 training labels of an integer type, not \[10\] float64"),
        ("a label missing", r"10 validation labels of an integer type, not \[9\]"),
        ("no validation", "gives no validation image"),
        ("two sizes", "training images of 8 px, but validation images of 4 px"),
        ("labels from 1", r"training labels 0 \.\. classes - 1"),
        ("one class", "two classes or more"),
        ("another class", r"validation labels beyond 0 \.\. 1"),
    ],
)
def test_images_that_break_the_contract_are_one_line(fault, message):
    for attempt in (lambda: opened(Broken(fault=fault)), lambda: Broken(fault=fault).size()):
        with pytest.raises(UserError, match=rf"data.name: images\(\) of 'broken' .*{message}") as error:
            attempt()
        assert "\n" not in str(error.value)


class Unseeded(InMemory):
    """Noise that each process draws for itself."""

    preset: ClassVar = {"image_size": 8}

    name: Literal["unseeded"] = "unseeded"

    def images(self):
        """Other images in every call."""
        noise = np.random.default_rng().integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
        return (noise, np.arange(10) % 2), (noise, np.arange(10) % 2)


def open_unseeded(ranks):
    try:
        opened(Unseeded(), ranks)
    except DisagreementError as error:
        return str(error)
    return None


def test_images_that_differ_between_ranks_are_refused():
    first, second = (result.value for result in run_ranks(open_unseeded, 2))
    assert first == second == "images() of 'unseeded': training images differs from rank 0's on rank 1"


def test_a_registered_name_is_taken():
    with pytest.raises(UserError, match="dataset 'shapes' is registered twice"):

        @registry.datasets.add
        class Other(InMemory):
            """Another class of that name."""

            name: Literal["shapes"] = "shapes"

    assert registry.datasets["shapes"] is Shapes
