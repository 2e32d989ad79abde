"""The ticket and its file."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from elth_dist.errors import UserError
from elth_dist.models.build import build_model
from elth_dist.sparsity.masks import Masks
from elth_dist.tickets import plan_transfer
from elth_dist.tickets.ticket import METADATA_KEY, Change, Ticket, TicketMeta

Make = Callable[..., Ticket]


@pytest.fixture
def ticket(make_ticket: Make) -> Ticket:
    return make_ticket()


def _same(left: Ticket, right: Ticket) -> bool:
    return (
        (left.arch, left.meta, left.masks) == (right.arch, right.meta, right.masks)
        and list(left.weights) == list(right.weights)
        and all(torch.equal(tensor, right.weights[name]) for name, tensor in left.weights.items())
    )


@pytest.mark.parametrize("arch", ["resnet8_cifar", "vgg13"])
def test_round_trip(arch: str, make_ticket: Make, tmp_path: Path) -> None:
    plan = plan_transfer(arch, arch)
    control = Change(kind="reinit", seed=3, init="paper")
    ticket = make_ticket(arch)
    ticket = replace(ticket, meta=ticket.meta.model_copy(update={"plan": plan, "controls": (control,), "parent": "ab"}))
    ticket.save(tmp_path / "ticket.safetensors")
    loaded = Ticket.load(tmp_path / "ticket.safetensors")
    assert _same(loaded, ticket)
    assert (loaded.hash, loaded.density, loaded.num_classes) == (ticket.hash, ticket.density, 10)
    assert loaded.meta.plan == plan
    assert 0.29 < loaded.density < 0.31
    assert list(tmp_path.iterdir()) == [tmp_path / "ticket.safetensors"]


def test_the_file_is_what_the_design_says(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "ticket.safetensors"
    ticket.save(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert list(metadata) == [METADATA_KEY]
    entry = json.loads(metadata[METADATA_KEY])
    assert metadata[METADATA_KEY] == json.dumps(entry, sort_keys=True, separators=(",", ":"))
    assert entry["format_version"] == 1
    assert entry["arch"] == "resnet20_cifar"
    assert entry["meta"]["rewind_step"] == 200
    tensors = safetensors.torch.load_file(path)
    masks = {name for name in tensors if name.startswith("mask/")}
    assert masks == {f"mask/{name}" for name in ticket.masks}
    assert all(tensors[name].dtype == torch.uint8 for name in masks)
    build_model("resnet20_cifar", 10, seed=0).load_state_dict({k: v for k, v in tensors.items() if k not in masks})
    assert torch.equal(tensors["conv1.weight"], ticket.weights["conv1.weight"])


def test_equal_tickets_are_equal_files(make_ticket: Make, tmp_path: Path) -> None:
    ticket = make_ticket()
    weights = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in reversed(ticket.weights.items())
    }
    masks = Masks(dict(reversed(list(ticket.masks.items()))))
    files = []
    for number, one in enumerate((ticket, make_ticket(), Ticket(ticket.arch, weights, masks, ticket.meta))):
        one.save(tmp_path / str(number))
        files.append((tmp_path / str(number)).read_bytes())
    assert files[0] == files[1] == files[2]


def test_the_hash_is_of_the_content(ticket: Ticket) -> None:
    elsewhere = TicketMeta(dataset="other", level=1, rewind_step=ticket.meta.rewind_step, parent="00", config="1")
    assert replace(ticket, meta=elsewhere).hash == ticket.hash
    assert replace(ticket, meta=ticket.meta.model_copy(update={"rewind_step": 0})).hash != ticket.hash
    for name in ("conv1.weight", "bn1.running_mean", "layer3.2.bn2.num_batches_tracked", "fc.bias"):
        weights = {key: tensor.clone() for key, tensor in ticket.weights.items()}
        weights[name].view(-1)[-1] += 1
        assert replace(ticket, weights=weights).hash != ticket.hash, name
    mask = ticket.masks["fc.weight"].clone()
    mask.view(-1)[0] ^= True
    assert replace(ticket, masks=Masks({**ticket.masks, "fc.weight": mask})).hash != ticket.hash


def test_a_ticket_is_a_snapshot(ticket: Ticket) -> None:
    model = build_model("resnet20_cifar", 10, seed=0)
    taken = Ticket(ticket.arch, model.state_dict(), ticket.masks, ticket.meta)
    before = taken.hash
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert replace(taken).hash == before
    assert not taken.weights["conv1.weight"].requires_grad


def test_theta_r_is_kept_dense(ticket: Ticket, tmp_path: Path) -> None:
    ticket.save(tmp_path / "t")
    loaded = Ticket.load(tmp_path / "t")
    masked = loaded.masked_weights()
    for name, mask in loaded.masks.items():
        assert loaded.weights[name].count_nonzero() == mask.numel()
        assert torch.equal(masked[name], torch.where(mask, ticket.weights[name], 0))
    assert all(torch.equal(masked[name], ticket.weights[name]) for name in masked.keys() - loaded.masks.keys())


def test_weights_load_into_torchvision(make_ticket: Make, tmp_path: Path) -> None:
    make_ticket("resnet18").save(tmp_path / "t")
    torchvision.models.resnet18(num_classes=10).load_state_dict(Ticket.load(tmp_path / "t").weights, strict=True)


def test_densities_of_stages(make_ticket: Make) -> None:
    ticket = make_ticket("resnet8_cifar")
    masks = {name: torch.ones_like(mask) for name, mask in ticket.masks.items()}
    masks["layer2.0.conv1.weight"] = torch.zeros_like(masks["layer2.0.conv1.weight"])
    ticket = replace(ticket, masks=Masks(masks))
    stage = 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32
    assert ticket.stage_densities == {
        "conv1": 1.0,
        "stage 1": 1.0,
        "stage 2": 1 - 16 * 32 * 9 / stage,
        "stage 3": 1.0,
        "fc": 1.0,
    }
    assert list(make_ticket("vgg13").stage_densities) == [f"stage {number}" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("bn1.running_var"), "'bn1.running_var' is missing"),
        (lambda w: w.pop("fc.weight"), "'fc.weight' is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "'extra' is none of its tensors"),
        (lambda w: w.update({"fc.bias": torch.zeros(9)}), r"'fc.bias' is torch.float32 \[9\], the network has"),
        (lambda w: w.update({"fc.bias": w["fc.bias"].half()}), r"'fc.bias' is torch.float16"),
    ],
)
def test_weights_have_to_be_the_networks(
    change: Callable[[dict[str, Tensor]], None], message: str, ticket: Ticket, tmp_path: Path
) -> None:
    weights = dict(ticket.weights)
    change(weights)
    with pytest.raises(ValueError, match=message):
        replace(ticket, weights=weights)
    _rewrite(ticket, tmp_path / "t", tensors=change)
    with pytest.raises(UserError, match=f"{tmp_path}/t: is no valid ticket of resnet20_cifar: {message}"):
        Ticket.load(tmp_path / "t")


def test_masks_have_to_be_the_networks(ticket: Ticket) -> None:
    masks = dict(ticket.masks)
    with pytest.raises(ValueError, match=r"'fc\.weight' does not fit"):
        replace(ticket, masks=Masks({**masks, "fc.weight": masks["fc.weight"].T.contiguous()}))
    del masks["layer1.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"'layer1\.0\.conv1\.weight' does not fit"):
        replace(ticket, masks=Masks(masks))


def _rewrite(
    ticket: Ticket,
    path: Path,
    tensors: Callable[[dict[str, Tensor]], Any] = lambda tensors: None,
    header: Callable[[dict[str, Any]], Any] = lambda header: None,
) -> None:
    """Save, then change the file's tensors and header as somebody else's program could."""
    ticket.save(path)
    with safetensors.safe_open(path, "pt") as file:
        entry = json.loads(file.metadata()[METADATA_KEY])
    held = safetensors.torch.load_file(path)
    tensors(held)
    header(entry)
    path.write_bytes(safetensors.torch.save(held, metadata={METADATA_KEY: json.dumps(entry)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("mask/fc.weight"), "differ in 'fc.weight'"),
        (lambda t: t.update({"mask/bn1.weight": torch.zeros(2, dtype=torch.uint8)}), "differ in 'bn1.weight'"),
        (lambda t: t.update({"mask/fc.weight": t["mask/fc.weight"][:-1]}), "packed mask of 'fc.weight'"),
        (lambda t: t.update({"mask/fc.weight": t["mask/fc.weight"].float()}), "packed mask of 'fc.weight'"),
        (lambda t: t["mask/fc.weight"][0].bitwise_xor_(1), "is damaged"),
        (lambda t: t["conv1.weight"][0].neg_(), "is damaged"),
        (lambda t: t["bn1.running_mean"].add_(1), "is damaged"),
    ],
)
def test_changed_tensors(change: Callable[[Any], Any], message: str, ticket: Ticket, tmp_path: Path) -> None:
    _rewrite(ticket, tmp_path / "t", tensors=change)
    with pytest.raises(UserError, match=message) as caught:
        Ticket.load(tmp_path / "t")
    _assert_one_line(caught.value, tmp_path / "t")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format_version=2), "format version 2; this elth_dist reads version 1"),
        (lambda h: h.pop("format_version"), "format_version: Field required"),
        (lambda h: h.pop("arch"), "arch: Field required"),
        (lambda h: h.update(arch="resnet19"), "unknown architecture 'resnet19'"),
        (lambda h: h.update(arch="resnet26"), "no valid ticket of resnet26: 'layer.* is missing"),
        (
            lambda h: h.update(arch="resnet14_cifar"),
            "no valid ticket of resnet14_cifar: 'layer1.2.*none of its tensors",
        ),
        (lambda h: h.update(num_classes=11), r"'fc\.\w+' is torch.float32 \[10"),
        (lambda h: h.update(num_classes=10**18), "num_classes: Input should be less"),
        (lambda h: h.update(num_classes=0), "num_classes: Input should be greater"),
        (lambda h: h.update(density=0.5), "is damaged"),
        (lambda h: h.update(hash="0" * 64), "is damaged"),
        (lambda h: h.update(hash="x"), "hash: String should match"),
        (lambda h: h.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda h: h["meta"].update(level=-1), "meta.level: Input should be greater"),
        (lambda h: h["meta"].update(rewind_step=0), "is damaged"),
        (
            lambda h: h["meta"].update(plan={"source": "resnet18", "target": "vgg13", "stages": []}),
            "unreadable ticket metadata .*one family only",
        ),
        (lambda h: h["meta"].update(plan={"source": "resnet18"}), "meta.plan.target: "),
    ],
)
def test_changed_header(change: Callable[[Any], Any], message: str, ticket: Ticket, tmp_path: Path) -> None:
    _rewrite(ticket, tmp_path / "t", header=change)
    with pytest.raises(UserError, match=message) as caught:
        Ticket.load(tmp_path / "t")
    _assert_one_line(caught.value, tmp_path / "t")


def test_every_truncation_is_noticed(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "t"
    ticket.save(path)
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for size in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="not a ticket file, or is truncated") as caught:
            Ticket.load(path)
        _assert_one_line(caught.value, path)
    path.write_bytes(data + b"\0")
    with pytest.raises(UserError, match="not a ticket file"):
        Ticket.load(path)


class _Bomb:
    """Leaves a trace where a pickle is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.safetensors"
    bomb = _Bomb(trace)
    contents = [pickle.dumps(bomb)]
    torch.save({"fc.weight": bomb}, path)
    contents.append(path.read_bytes())
    contents.append(struct.pack("<Q", 2) + b"{}" + pickle.dumps(bomb))
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a ticket file"):
            Ticket.load(path)
    assert not trace.exists()
    pickle.loads(contents[0])
    assert trace.exists(), "the bomb is one"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "a safetensors file but not a ticket"),
        ("", "JSON: "),
        ("[]", "JSON: "),
        ("[" * 100_000, "JSON: "),
        ('{"format_version":true}', "format_version"),
    ],
)
def test_foreign_safetensors(entry: str | None, message: str, tmp_path: Path) -> None:
    metadata = {"format": "pt"} if entry is None else {METADATA_KEY: entry}
    weights = build_model("resnet8_cifar", 10, seed=0).state_dict()
    safetensors.torch.save_file(weights, tmp_path / "t", metadata=metadata)
    with pytest.raises(UserError, match=message) as caught:
        Ticket.load(tmp_path / "t")
    _assert_one_line(caught.value, tmp_path / "t")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Ticket.load(tmp_path / "t")
    with pytest.raises(UserError, match="is a folder"):
        Ticket.load(tmp_path)


def test_saving_replaces_whole_files_or_nothing(
    make_ticket: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t"
    first, second = make_ticket(seed=1), make_ticket(seed=2)
    first.save(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="t: cannot be written: No space left on device"):
            second.save(path)
    assert [item.name for item in tmp_path.iterdir()] == ["t"]
    assert Ticket.load(path).hash == first.hash
    second.save(path)
    assert Ticket.load(path).hash == second.hash
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        first.save(tmp_path / "missing" / "t")


def test_repr_is_one_line(ticket: Ticket) -> None:
    percent = f"{ticket.density:.2%}"
    assert repr(ticket) == f"Ticket(resnet20_cifar, density {percent}, level 5, rewind step 200, {ticket.hash[:12]})"


def test_model_is_the_subnetwork(ticket: Ticket) -> None:
    model, whole = ticket.model(), ticket.model(masked=False)
    assert model.training
    expected = ticket.masked_weights()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, ticket.weights[name]) for name, tensor in whole.state_dict().items())
    with torch.no_grad():
        model.get_parameter("fc.weight").fill_(3)
    assert not (ticket.weights["fc.weight"] == 3).any()


def test_a_ticket_of_another_image_size(make_ticket: Make, tmp_path: Path) -> None:
    ticket = make_ticket("vit_xs4", image_size=16)
    ticket.save(tmp_path / "t")
    loaded = Ticket.load(tmp_path / "t")
    assert (loaded.hash, loaded.image_size) == (ticket.hash, 16)
    with pytest.raises(UserError, match="vit_xs4: the weights are for images of 16 px, not of 32 px"):
        loaded.model(32)
    assert loaded.model(16)(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.pos_embedding"), "'encoder.pos_embedding' is missing"),
        (lambda t: t.update({"encoder.pos_embedding": torch.zeros(1, 7, 64)}), "'encoder.pos_embedding' is|'conv_proj"),
        (lambda t: t.update({"conv_proj.weight": torch.zeros(64, 3, 0, 5)}), "'conv_proj.weight' is|'encoder.pos"),
        (lambda t: t.pop("heads.head.weight"), "'heads.head.weight' is missing"),
    ],
)
def test_shapes_of_a_vit_are_its_own(
    change: Callable[[Any], Any], message: str, make_ticket: Make, tmp_path: Path
) -> None:
    _rewrite(make_ticket("vit_xs4", image_size=16), tmp_path / "t", tensors=change)
    with pytest.raises(UserError, match=message) as caught:
        Ticket.load(tmp_path / "t")
    _assert_one_line(caught.value, tmp_path / "t")


def test_golden_hash() -> None:
    """Hashes go into files and job identities: they must not change from one version to the next."""
    ticket = _constant()
    assert ticket.hash == "c119c0ba953df9d9ad188e15c6cdbc39111d2d5895434f800d5117499fd5cd59"


def _constant() -> Ticket:
    weights = {
        name: torch.arange(tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
        for name, tensor in build_model("resnet8_cifar", 2, seed=0).state_dict().items()
    }
    masks = Masks.dense(build_model("resnet8_cifar", 2, seed=0))
    return Ticket("resnet8_cifar", weights, masks, TicketMeta(dataset="digits", level=0, rewind_step=7))


def _assert_one_line(error: UserError, path: Path) -> None:
    assert "\n" not in str(error)
    assert str(error).startswith(f"{path}: ")
