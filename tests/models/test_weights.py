"""Weights from a file as the start of a network."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from elth_dist.errors import UserError
from elth_dist.models.build import build_model
from elth_dist.models.options import ModelOptions
from elth_dist.models.weights import load_initial
from elth_dist.sparsity.masks import Masks
from elth_dist.tickets import Ticket
from elth_dist.tickets.ticket import TicketMeta

ARCH = "resnet8_cifar"


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in build_model(ARCH, 10, seed=1).state_dict().items()}


def _save(state: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.safetensors", lambda state: state),
        ("w.pt", lambda state: state),
        ("w.pth", lambda state: {"model": state, "epoch": 3}),
        ("w.pt", lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}),
        ("w.safetensors", lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}),
    ],
)
def test_formats_and_wrappers(
    name: str, content: Callable[[Any], Any], state: dict[str, Tensor], tmp_path: Path
) -> None:
    model = build_model(ARCH, 10, seed=2)
    load_initial(model, _save(content(state), tmp_path / name))
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_half_precision_and_without_counters(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    model = build_model(ARCH, 10, seed=2)
    model.get_buffer("bn1.num_batches_tracked").fill_(7)
    load_initial(model, _save(half, tmp_path / "w.safetensors"))
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, half[name].float() if name in half else torch.tensor(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"fc.weight": torch.zeros(1000, 64)}), r"'fc.weight' is \[1000, 64\], .* 1000 classes"),
        (lambda s: s.pop("fc.bias"), "'fc.bias' of resnet8_cifar is missing"),
        (lambda s: s.pop("bn1.running_mean"), "'bn1.running_mean' of resnet8_cifar is missing"),
        (lambda s: s.update({"head.weight": torch.zeros(2)}), "'head.weight' is not a tensor of resnet8_cifar"),
        (lambda s: s.update({"conv1.weight": torch.zeros(16, 3, 7, 7)}), r"'conv1.weight' is \[16, 3, 7, 7\]"),
        (lambda s: s.update({"fc.bias": torch.zeros(10, dtype=torch.int64)}), "'fc.bias' is torch.int64"),
        (lambda s: s["fc.bias"][3].fill_(torch.nan), "'fc.bias' holds values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[Any], Any], message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    change(state)
    model = build_model(ARCH, 10, seed=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = _save(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=f"model.weights: {path}: {message}") as caught:
        load_initial(model, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_ticket_is_told_from_weights(tmp_path: Path) -> None:
    model = build_model(ARCH, 10, seed=1)
    meta = TicketMeta(dataset="digits", level=0, rewind_step=0)
    Ticket(ARCH, model.state_dict(), Masks.dense(model), meta).save(tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="is a ticket, not weights"):
        load_initial(model, tmp_path / "t.safetensors")


class _Bomb:
    """Leaves a trace where a pickle is run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    model = build_model(ARCH, 10, seed=1)
    trace = tmp_path / "trace"
    _save({"fc.weight": _Bomb(trace)}, tmp_path / "bomb.pt")
    _save(nn.Linear(1, 1), tmp_path / "module.pt")
    _save([torch.zeros(1)], tmp_path / "list.pt")
    _save({"fc.weight": 3}, tmp_path / "numbers.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("no weights")
    for path in (*sorted(tmp_path.iterdir()), tmp_path / "missing.pt"):
        with pytest.raises(UserError, match=f"model.weights: {path}") as caught:
            load_initial(model, path)
        assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_the_content_is_part_of_the_identity_not_the_path(state: dict[str, Tensor], tmp_path: Path) -> None:
    assert ModelOptions(arch=ARCH).identity() == {"arch": ARCH}
    first = ModelOptions(arch=ARCH, weights=str(_save(state, tmp_path / "a.safetensors"))).identity()
    assert len(first["weights"]) == 64
    assert ModelOptions(arch=ARCH, weights=str(_save(state, tmp_path / "b.safetensors"))).identity() == first
    state["fc.bias"] += 1
    assert ModelOptions(arch=ARCH, weights=str(_save(state, tmp_path / "b.safetensors"))).identity() != first
    with pytest.raises(UserError, match=r"model.weights: .*/c\.pt cannot be read: No such file"):
        ModelOptions(arch=ARCH, weights=str(tmp_path / "c.pt")).identity()
    with pytest.raises(ValidationError, match=r"c\.bin: the suffix says the format; valid are \.safetensors, \.pt"):
        ModelOptions(arch=ARCH, weights="c.bin")
