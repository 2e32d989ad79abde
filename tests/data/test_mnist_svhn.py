"""MNIST and SVHN, from small files in their real formats."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from elth_dist.data import data_options
from elth_dist.data.dataset import open_dataset
from elth_dist.errors import UserError
from elth_dist.runtime.ranks import Ranks
from elth_dist.tickets import Ticket
from tests.helpers.ranks import REPOSITORY
from tests.helpers.runs import run

COUNTS = {"train": 40, "t10k": 20, "test": 20}


def opened(name: str, root: Path, **options):
    plain = {"augment": "none", "flip": False, "mean": (0, 0, 0), "std": (1, 1, 1)} | options
    data = data_options(name=name, root=root, **plain)
    data.check()
    return open_dataset(data, Ranks(), default_root=root, dtype=torch.float32)


def labels_of(split: str) -> np.ndarray:
    return np.random.default_rng(len(split)).permutation(np.arange(COUNTS[split]) % 10)


def scans_of(split: str) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (COUNTS[split], 28, 28), dtype=np.uint8)


def idx(numbers: np.ndarray) -> bytes:
    """The format of MNIST's files, by its description."""
    header = b"\x00\x00\x08" + bytes([numbers.ndim])
    return header + b"".join(struct.pack(">I", size) for size in numbers.shape) + numbers.astype(np.uint8).tobytes()


def write_mnist(folder: Path, *, packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        for name, numbers in (("images-idx3", scans_of(split)), ("labels-idx1", labels_of(split))):
            path, content = folder / f"{split}-{name}-ubyte", idx(numbers)
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["MNIST/raw", "raw", "."])
def test_mnist_is_read_wherever_torchvision_leaves_it(tmp_path, place, packed):
    write_mnist(tmp_path / "data" / place, packed=packed)
    dataset = opened("mnist", tmp_path / "data")
    assert (dataset.num_train, dataset.num_val, dataset.num_classes, dataset.image_size) == (40, 20, 10, 28)
    (batch,) = dataset.val_loader(batch=20)
    assert batch.images.shape == (20, 3, 28, 28)
    for channel in range(3):
        np.testing.assert_array_equal((batch.images[:, channel] * 255).round().numpy(), scans_of("t10k"))
    assert batch.labels.tolist() == labels_of("t10k").tolist()
    train = next(dataset.train_loader(seed=0, global_batch=40))
    np.testing.assert_array_equal((train.images[:, 0] * 255).round().numpy(), scans_of("train")[train.indices])
    assert train.labels.tolist() == labels_of("train")[train.indices].tolist()


def test_mnist_is_what_torchvision_reads(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw")
    theirs = datasets.MNIST(str(tmp_path), train=False, download=False)
    (pixels, labels) = data_options(name="mnist", root=tmp_path).images()[1]
    assert torch.equal(theirs.data, torch.from_numpy(pixels[..., 0].copy()))
    assert theirs.targets.tolist() == labels.tolist()


def test_mnist_in_its_own_preset(tmp_path):
    write_mnist(tmp_path / "raw")
    options = data_options(name="mnist", root=tmp_path)
    assert (options.loader, options.augment, options.flip, options.image_size) == ("resident", "none", False, 28)
    (batch,) = open_dataset(options, Ranks(), default_root=tmp_path, dtype=torch.float32).val_loader(batch=20)
    expected = (torch.from_numpy(scans_of("t10k")) / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(batch.images[:, 0], expected, atol=1e-5, rtol=0)


def test_sizes_are_counted_without_the_images(tmp_path):
    raw = write_mnist(tmp_path / "mnist" / "MNIST" / "raw")
    write_svhn(tmp_path / "svhn")
    for path in raw.glob("*images*"):
        path.write_bytes(b"")
    for name in ("mnist", "svhn"):
        assert data_options(name=name, root=tmp_path / name).size() == (40, 10)
        assert data_options(name=name, root=tmp_path / name).known_size() is None
    assert data_options(name="mnist").size() == data_options(name="mnist").known_size() == (60_000, 10)
    assert data_options(name="svhn").size() == data_options(name="svhn").known_size() == (73_257, 10)


def test_the_folder_is_needed(tmp_path):
    with pytest.raises(UserError, match=r"data.root: 'mnist' needs the folder that holds MNIST/raw"):
        data_options(name="mnist").check()
    with pytest.raises(UserError, match=r"data.root: 'svhn' needs the folder of train_32x32.mat"):
        data_options(name="svhn").check()
    with pytest.raises(UserError, match=r"data.root: no train-images-idx3-ubyte \(or train-images-idx3-ubyte.gz\) in"):
        data_options(name="mnist", root=tmp_path).check()
    with pytest.raises(UserError, match=r"data.root: no train_32x32.mat in"):
        data_options(name="svhn", root=tmp_path).check()
    for name in ("mnist", "svhn"):
        data_options(name=name, root=tmp_path).check(elsewhere=True)


@pytest.mark.parametrize("missing", ["t10k-labels-idx1-ubyte", "train-images-idx3-ubyte"])
def test_a_missing_file_is_named_before_the_start(tmp_path, missing):
    (write_mnist(tmp_path / "raw") / missing).unlink()
    with pytest.raises(UserError, match=f"data.root: no {missing} "):
        data_options(name="mnist", root=tmp_path).check()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no file of unsigned bytes of 3 dimension"),
        (idx(np.zeros(40)), "is no file of unsigned bytes of 3 dimension"),
        (b"\x00\x00\x0d\x03" + idx(scans_of("train"))[4:], "is no file of unsigned bytes"),
        (idx(scans_of("train"))[:-1], r"is damaged: its header says \[40, 28, 28\], but 31359 bytes follow"),
        (idx(scans_of("train")) + b"0", "but 31361 bytes follow"),
        (idx(scans_of("train")[:39]), r"must give 39 training labels"),
        (idx(scans_of("train")[:, :, :27]), r"must give training images \[N, S, S, 3\] uint8"),
    ],
)
def test_damaged_mnist_is_one_line(tmp_path, content, message):
    path = write_mnist(tmp_path / "raw") / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        opened("mnist", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(idx(scans_of("train")))[:-20]])
def test_damaged_compression_is_one_line(tmp_path, content):
    path = write_mnist(tmp_path / "raw", packed=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"data.root: {path} (is damaged|cannot be read|is no file)"):
        opened("mnist", tmp_path)


def write_svhn(root: Path) -> Path:
    """As published: X [32, 32, 3, N] uint8, y [N, 1] of 1 .. 10."""
    root.mkdir(parents=True)
    for split in ("train", "test"):
        labels = labels_of(split)
        stored = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        savemat(
            root / f"{split}_32x32.mat", {"X": crops_of(split).transpose(1, 2, 3, 0), "y": stored}, do_compression=True
        )
    return root


def crops_of(split: str) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (COUNTS[split], 32, 32, 3), dtype=np.uint8)


def test_svhn_is_read(tmp_path):
    write_svhn(tmp_path / "svhn")
    dataset = opened("svhn", tmp_path / "svhn")
    assert (dataset.num_train, dataset.num_val, dataset.num_classes, dataset.image_size) == (40, 20, 10, 32)
    (batch,) = dataset.val_loader(batch=20)
    np.testing.assert_array_equal((batch.images.permute(0, 2, 3, 1) * 255).round().numpy(), crops_of("test"))
    assert batch.labels.tolist() == labels_of("test").tolist()
    assert 0 in batch.labels


def test_svhn_is_what_torchvision_reads(tmp_path, monkeypatch):
    write_svhn(tmp_path / "svhn")
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    theirs = datasets.SVHN(str(tmp_path / "svhn"), split="test")
    pixels, labels = data_options(name="svhn", root=tmp_path / "svhn").images()[1]
    np.testing.assert_array_equal(theirs.data.transpose(0, 2, 3, 1), pixels)
    assert theirs.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a .mat file"),
        (b"x" * 1000, "cannot be read as a .mat file"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8)}, "holds no numbers named y"),
        ({"X": np.array(["text"]), "y": np.ones((4, 1))}, "holds no numbers named X"),
        ({"X": np.zeros((32, 32), np.uint8), "y": np.ones((4, 1))}, r"X is \[32, 32\], not \[32, 32, 3, images\]"),
        ({"X": np.zeros((32, 32, 3, 4)), "y": np.ones((4, 1))}, r"must give training images \[N, S, S, 3\] uint8"),
    ],
)
def test_damaged_svhn_is_one_line(tmp_path, content, message):
    path = write_svhn(tmp_path / "svhn") / "train_32x32.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(UserError, match=message) as error:
        opened("svhn", tmp_path / "svhn")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "arch", "targets"), [("mnist", "mlp_16x2", ["mlp_16x4"]), ("svhn", "resnet8_cifar", [])]
)
def test_two_ranks_find_and_move_tickets(tmp_path, name, arch, targets):
    root = write_mnist(tmp_path / "data") if name == "mnist" else write_svhn(tmp_path / "data")
    base = ["--config", str(REPOSITORY / "configs/cifar10/resnet20_imp.yaml"), f"--data={name}", f"--data.root={root}"]
    base += [f"--model.arch={arch}", "--train.precision=fp32", "--train.epochs=2", "--train.global_batch=20"]
    base += ["--train.milestones=[]", "--method.levels=1", "--method.rewind=1it", "--method.controls=[]"]
    transfers = json.dumps([{"to": target} for target in targets])
    run(tmp_path / "run", 2, f"--method.transfers={transfers}", base=base)
    ticket = Ticket.load(tmp_path / "run/mask-01/ticket.safetensors")
    assert (ticket.meta.dataset, ticket.num_classes, ticket.meta.rewind_step) == (name, 10, 1)
    assert ticket.density == pytest.approx(0.8, abs=0.001)
    for target in targets:
        assert Ticket.load(tmp_path / f"run/train-{target}/ticket.safetensors").arch == target
