from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from elth_dist.accounting.layers import Layer, Network, count_layers
from elth_dist.accounting.meter import Flops, FlopsMeter
from elth_dist.runtime.states import load_state, save_state
from elth_dist.sparsity.masks import Masks

MODEL = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))
NETWORK = count_layers(MODEL, (3, 8, 8))
CONV, LINEAR = 2 * 3 * 4 * 9 * 64, 2 * 4 * 64 * 10
DENSE = CONV + LINEAR


def masks(conv: int, linear: int) -> Masks:
    """Masks that keep so many weights of each layer."""
    kept = {"0.weight": (conv, (4, 3, 3, 3)), "3.weight": (linear, (10, 256))}
    return Masks(
        {name: (torch.arange(torch.Size(shape).numel()) < count).view(shape) for name, (count, shape) in kept.items()}
    )


def forward(conv: int, linear: int) -> int:
    return 2 * (conv * 64 + linear)


def test_dense_training_is_three_forward_passes() -> None:
    meter, dense = FlopsMeter(NETWORK, samples=7), Masks.dense(MODEL)
    for _ in range(5):
        meter.count_step(dense, dense_gradient=False)
    assert meter.read(dense) == Flops(3 * DENSE * 7 * 5, DENSE, DENSE)
    assert meter.read(dense).train == meter.dense_training(5)


def test_each_step_costs_what_its_masks_keep_and_dense_gradients_cost_more() -> None:
    meter, one, other = FlopsMeter(NETWORK, samples=2), masks(50, 100), masks(20, 300)
    expected = 0
    for step in range(30):
        current, update = (one, other)[step // 10 % 2], step % 4 == 3
        meter.count_step(current, update)
        sparse = forward(50, 100) if current is one else forward(20, 300)
        expected += 2 * (2 * sparse + (DENSE if update else sparse))
        if step % 7 == 0:
            assert meter.read(current).train == expected, "reading changes nothing"
    assert meter.read(other) == Flops(expected, forward(20, 300), DENSE), "the forward pass with the masks of now"


def test_weights_without_a_mask_are_dense() -> None:
    meter, current = FlopsMeter(NETWORK, samples=1), Masks({"0.weight": masks(27, 0)["0.weight"]})
    assert meter.read(current).forward == 2 * 27 * 64 + LINEAR


def test_products_of_activations_are_dense() -> None:
    attention = replace(NETWORK, matmuls=1000)
    meter, current = FlopsMeter(attention, samples=1), masks(50, 100)
    meter.count_step(current, dense_gradient=False)
    sparse = forward(50, 100) + 2000
    assert meter.read(current) == Flops(3 * sparse, sparse, DENSE + 2000)


def test_a_restored_meter_goes_on_exactly(tmp_path: Any) -> None:
    """Also beyond the 53 bits of a float: an ImageNet training takes some 2^61 FLOPs."""
    large = Network((Layer("w", (1000, 1001), 1009, 1000 * 1009),), 0)
    kept = Masks({"w": torch.ones(1000, 1001, dtype=torch.bool)})
    whole, first = FlopsMeter(large, samples=10**9 + 7), FlopsMeter(large, samples=10**9 + 7)
    for _ in range(3):
        whole.count_step(kept, True)
        first.count_step(kept, True)
    save_state(tmp_path / "state", first.state_dict(kept))
    second = FlopsMeter(large, samples=10**9 + 7)
    second.load_state_dict(load_state(tmp_path / "state"))
    copy = Masks(dict(kept))
    whole.count_step(kept, False)
    second.count_step(copy, False)
    assert second.read(copy) == whole.read(kept)
    assert whole.read(kept).train == 4 * 3 * (10**9 + 7) * 2 * 1000 * 1001 * 1009 > 2**53


def test_counting_a_step_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, one, other = FlopsMeter(NETWORK, samples=1), masks(10, 10), masks(20, 20)

    def synchronised(*_: object) -> None:
        raise AssertionError("this would wait for the device")

    with monkeypatch.context() as patched:
        for method in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy"):
            patched.setattr(torch.Tensor, method, synchronised)
        for step in range(10):
            meter.count_step((one, other)[step % 2], dense_gradient=True)
    assert meter.read(other).train > 0
