import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from elth_dist.sparsity.masks import Masks, prunable_weights


def random_masks(*shapes: tuple[int, ...], density: float = 0.5, seed: int = 0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return Masks({f"w{i}": torch.rand(shape, generator=generator) < density for i, shape in enumerate(shapes)})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ConvTranspose2d(4, 4, 1))
        self.fc = nn.Linear(4, 2)


def test_prunable_weights_are_those_of_convolutions_and_linears_in_parameter_order() -> None:
    assert list(prunable_weights(Net())) == ["conv.weight", "blocks.0.weight", "fc.weight"]
    assert list(prunable_weights(Net(), ["fc.weight"])) == ["conv.weight", "blocks.0.weight"]
    assert list(prunable_weights(nn.Linear(2, 2))) == ["weight"]
    for name in ("conv.bias", "bn.weight", "fc.wieght"):
        with pytest.raises(ValueError, match=name):
            prunable_weights(Net(), [name])


def test_the_stacked_weights_of_attention_are_prunable() -> None:
    attention = nn.Sequential(nn.MultiheadAttention(8, 2), nn.LayerNorm(8))
    assert list(prunable_weights(attention)) == ["0.in_proj_weight", "0.out_proj.weight"]
    assert list(prunable_weights(nn.MultiheadAttention(8, 2))) == ["in_proj_weight", "out_proj.weight"]


def test_dense_masks_of_a_model_and_of_shapes_are_equal() -> None:
    of_model = Masks.dense(Net(), ["fc.weight"])
    shapes = {"conv.weight": (4, 3, 3, 3), "blocks.0.weight": (4, 4, 1, 1), "fc.weight": (2, 4)}
    assert of_model == Masks.dense(shapes, ["fc.weight"])
    assert of_model != Masks.dense(shapes)
    assert (of_model.density, of_model.kept, of_model.total) == (1.0, 124, 124)


def test_counts_densities_and_collapse() -> None:
    masks = Masks({"a": torch.tensor([True, False, True, True]), "b": torch.zeros(2, 2, dtype=torch.bool)})
    assert masks.counts == {"a": 3, "b": 0}
    assert masks.densities == {"a": 0.75, "b": 0.0}
    assert masks.density == 3 / 8
    assert masks.collapsed() == ["b"]


def test_what_is_no_set_of_masks_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no masks"):
        Masks({})
    with pytest.raises(ValueError, match=r"'a'.*float32"):
        Masks({"a": torch.ones(2)})
    with pytest.raises(ValueError, match=r"'a'.*empty"):
        Masks({"a": torch.ones(0, dtype=torch.bool)})


def test_equality_is_by_content_order_and_shape() -> None:
    masks = random_masks((4, 3, 2, 2), (5,))
    same = Masks({"w0": masks["w0"].clone(memory_format=torch.channels_last), "w1": masks["w1"].clone()})
    assert masks == same
    assert masks != Masks({"w1": masks["w1"], "w0": masks["w0"]})
    assert masks != Masks({"w0": masks["w0"].reshape(4, 12), "w1": masks["w1"]})
    assert masks != Masks({"w0": masks["w0"], "w1": ~masks["w1"]})
    assert masks != "masks"


@given(st.lists(st.booleans(), min_size=1, max_size=100), st.integers(0, 7))
def test_bits_are_packed_little_endian_with_zero_padding_and_come_back(bits: list[bool], offset: int) -> None:
    flat = torch.tensor([False] * offset + bits)[offset:]  # also where memory is not aligned to eight bytes
    packed = Masks({"w": flat}).packed()
    assert packed["w"].tolist() == np.packbits(bits, bitorder="little").tolist()
    assert Masks.unpack(packed, {"w": (len(bits),)})["w"].tolist() == bits


def test_packing_follows_the_logical_order_for_any_strides() -> None:
    masks = random_masks((5, 3, 3, 3), (6, 4), (7, 5, 1, 1))
    strided = Masks(
        {
            "w0": masks["w0"].clone(memory_format=torch.channels_last),
            "w1": masks["w1"].t().contiguous().t(),
            "w2": masks["w2"].clone(memory_format=torch.channels_last),
        }
    )
    assert all(torch.equal(a, b) for a, b in zip(masks.packed().values(), strided.packed().values(), strict=True))
    assert masks.hashes() == strided.hashes()
    assert Masks.unpack(strided.packed(), {name: mask.shape for name, mask in masks.items()}) == masks


def test_unpack_refuses_what_does_not_fit() -> None:
    packed = {"w": torch.tensor([0b101], dtype=torch.uint8)}
    assert Masks.unpack(packed, {"w": (3,)})["w"].tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"'w'.*padding"):
        Masks.unpack(packed, {"w": (2,)})
    with pytest.raises(ValueError, match=r"'w'.*9 weights"):
        Masks.unpack(packed, {"w": (3, 3)})
    with pytest.raises(ValueError, match=r"'w'.*int64"):
        Masks.unpack({"w": packed["w"].long()}, {"w": (3,)})
    for names in ({"w": (3,), "v": (3,)}, {"v": (3,)}):
        with pytest.raises(ValueError, match="'v'"):
            Masks.unpack(packed, names)


def test_hashes_fit_int64_and_show_any_single_bit() -> None:
    masks = random_masks((40,), (3, 3))
    hashes = masks.hashes()
    assert all(-(1 << 63) <= value < 1 << 63 for value in hashes.values())
    for i in range(40):
        changed = masks["w0"].clone()
        changed[i] ^= True
        other = Masks({"w0": changed, "w1": masks["w1"]}).hashes()
        assert other["w0"] != hashes["w0"]
        assert other["w1"] == hashes["w1"]


def test_hashes_are_the_same_in_every_version_and_on_every_machine() -> None:
    masks = Masks({"w": torch.arange(27).reshape(3, 1, 3, 3) % 3 == 0})
    digest = hashlib.blake2b(bytes([0b01001001, 0b10010010, 0b00100100, 0b1]), digest_size=8).digest()
    assert masks.hashes() == {"w": int.from_bytes(digest, "little", signed=True)} == {"w": 322118149138812614}


def test_overlap_is_the_jaccard_index() -> None:
    a = Masks({"x": torch.tensor([True, True, False, False]), "y": torch.tensor([False, False])})
    b = Masks({"x": torch.tensor([True, False, True, False]), "y": torch.tensor([False, False])})
    assert a.overlap(b) == (1 / 3, {"x": 1 / 3, "y": 1.0})
    assert a.overlap(a).total == 1.0
    with pytest.raises(ValueError, match="different weights"):
        a.overlap(Masks({"x": a["x"]}))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_apply_zeroes_exactly_the_pruned_entries_whatever_they_hold(memory_format: torch.memory_format) -> None:
    masks = random_masks((4, 3, 2, 2))
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=memory_format))
    before = weight.detach().clone()
    with torch.no_grad():
        weight[~masks["w0"]] = torch.tensor([float("nan"), float("inf"), -1.0]).repeat(10)[: (~masks["w0"]).sum()]
    tensors = {"w0": weight, "other": torch.ones(1)}
    assert masks.check_zero(tensors) == ["w0"]
    masks.apply_(tensors)
    assert masks.check_zero(tensors) == []
    assert torch.equal(weight, torch.where(masks["w0"], before, 0.0))
    assert not torch.signbit(weight[~masks["w0"]]).any()


def test_check_zero_sees_the_smallest_number_and_nan() -> None:
    masks = Masks({"a": torch.tensor([False, True]), "b": torch.tensor([False, True]), "c": torch.tensor([False])})
    tensors = {"a": torch.tensor([1e-45, 1.0]), "b": torch.tensor([-0.0, 1.0]), "c": torch.tensor([float("nan")])}
    assert masks.check_zero(tensors) == ["a", "c"]
    with pytest.raises(KeyError):
        masks.check_zero({"a": tensors["a"]})
