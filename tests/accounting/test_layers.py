"""Counted once, without computing; held against two counters that other people wrote, and against published figures."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from elth_dist.accounting.layers import Layer, count_layers, network
from elth_dist.models.build import blank_model, build_model

MACS_AT_224 = {
    "resnet18": 1_814_073_344,
    "resnet26": 2_738_917_376,
    "resnet34": 3_663_761_408,
    "resnet50": 4_089_184_256,
}
CIFAR_MACS = {14: "26.657", 20: "40.813", 32: "69.125", 44: "97.436", 56: "125.748"}


def torch_macs(model: nn.Module, *shape: int) -> int:
    """What torch's own counter sees of one sample, on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, *shape, device=next(model.parameters()).device))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("arch", MACS_AT_224)
def test_published_macs_of_imagenet_networks(arch: str) -> None:
    assert network(arch, 224, 1000).macs == MACS_AT_224[arch]


@pytest.mark.parametrize("depth", CIFAR_MACS)
def test_published_macs_of_cifar_networks(depth: int) -> None:
    assert f"{network(f'resnet{depth}_cifar', 32, 10).macs / 1e6:.3f}" == CIFAR_MACS[depth]


@pytest.mark.parametrize(
    ("arch", "size", "classes"),
    [
        ("resnet18", 224, 1000),
        ("resnet34", 96, 17),
        ("resnet26", 224, 1000),
        ("resnet50", 224, 1000),
        ("resnet101", 224, 1000),
        ("resnet152", 160, 1000),
        ("resnet56_cifar", 32, 10),
        ("vgg13", 32, 10),
        ("vgg16", 32, 100),
        ("vgg19", 48, 10),
    ],
)
def test_torch_counts_the_same(arch: str, size: int, classes: int) -> None:
    assert network(arch, size, classes).macs == torch_macs(blank_model(arch, classes), 3, size, size)


@pytest.mark.parametrize(
    ("arch", "size"), [("resnet18", 224), ("resnet50", 224), ("resnet20_cifar", 32), ("vgg16", 32)]
)
def test_fvcore_counts_the_same_layer_by_layer(arch: str, size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore's own
        from fvcore.nn import FlopCountAnalysis

        model = build_model(arch, 10, seed=0).eval()
        counted = FlopCountAnalysis(model, torch.zeros(1, 3, size, size)).unsupported_ops_warnings(False)
        by_module = {name: int(sum(value.values())) for name, value in counted.by_module_and_operator().items()}
    ours = {layer.weight.removesuffix(".weight"): layer.macs for layer in network(arch, size, 10).layers}
    assert ours == {name: by_module[name] for name in ours}


def test_layers_are_the_prunable_weights_in_their_order() -> None:
    from elth_dist.models.families import architecture
    from elth_dist.sparsity.masks import prunable_weights

    for arch in ("resnet26", "resnet20_cifar", "vgg16"):
        weights = prunable_weights(blank_model(arch, 10), architecture(arch).excluded)
        assert network(arch, 32, 10).shapes == {name: tuple(p.shape) for name, p in weights.items()}
        assert list(network(arch, 32, 10).shapes) == list(weights)


class Odd(nn.Module):
    """Groups, dilation, other dimensions, transposed, a linear layer on sequences, one layer twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2, stride=2)
        self.dilated = nn.Conv2d(8, 8, (3, 1), dilation=(2, 1), bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2)
        self.line = nn.Conv1d(6, 5, 3)
        self.twice = nn.Linear(5, 5)
        self.never = nn.Linear(100, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.dilated(self.grouped(x)))
        x = self.line(x.flatten(2)).transpose(1, 2)
        out: torch.Tensor = self.twice(self.twice(x))
        return out


def test_any_module_of_convolutions_and_linear_layers() -> None:
    model = Odd()
    before = copy.deepcopy(model.state_dict())
    found = count_layers(model, (4, 16, 16))
    layers = {layer.weight: layer for layer in found.layers}
    assert layers["grouped.weight"] == Layer("grouped.weight", (8, 2, 3, 3), 8 * 8, 8 * 8 * 8)
    assert layers["never.weight"].macs == 0
    assert layers["twice.weight"].positions == 2 * layers["line.weight"].positions
    assert model.training, "the module is left alone"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert found.macs == torch_macs(model, 4, 16, 16)


def test_any_precision() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(dtype)
        assert count_layers(model, (3, 6, 6)).macs == 4 * 27 * 16


def test_tied_weights_count_each_use() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    [layer] = count_layers(model, (4,)).layers
    assert (layer.weight, layer.macs) == ("0.weight", 32)


def test_what_cannot_be_counted_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16))
    with pytest.raises(ValueError, match=r"1\.self_attn\.in_proj_weight belongs to no convolution"):
        count_layers(model, (8,))


def test_density_is_that_of_the_prunable_weights() -> None:
    vgg = network("vgg13", 32, 10)
    assert "fc.weight" not in vgg.shapes
    assert vgg.density({}) == 1
    assert vgg.density(dict.fromkeys(vgg.shapes, 0.25)) == pytest.approx(0.25)
