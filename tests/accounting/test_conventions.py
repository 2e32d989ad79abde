from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elth_dist.accounting.conventions import CONVENTIONS, ELEMENTWISE, MATMULS
from elth_dist.accounting.layers import Layer, Network, count_layers, network
from elth_dist.accounting.paper import as_printed
from elth_dist.errors import UserError

RESNET50 = network("resnet50", 224, 1000)
SMALL = Network((Layer("a", (4, 3, 3, 3), 64, 256), Layer("b", (10, 4), 1, 10)), elementwise=1000)


def test_by_hand() -> None:
    densities = {"a": 0.5}
    costs = {name: convention.costs(SMALL, densities) for name, convention in CONVENTIONS.items() if "115" not in name}
    assert costs == {
        "exact": {"a": 6912.0, "b": 80.0},
        "rigl_paper": {"a": 6912.0 + 256, "b": 80.0 + 10},
        "dpf_counter": {"a": 3456.0, "b": 40.0, ELEMENTWISE: 1000},
        # 54 of 108 and 40 of 40 weights kept
        "elth_paper": {"a": pytest.approx(13824 * 94 / 148), "b": pytest.approx(80 * 94 / 148)},
    }
    assert CONVENTIONS["exact"].forward(SMALL, densities) == 6992


def test_products_of_activations_are_dense() -> None:
    attention, densities = replace(SMALL, matmuls=7), {"a": 0.5}
    for name, convention in CONVENTIONS.items():
        if "115" in name:
            continue
        expected = 7 if name == "dpf_counter" else 14
        assert convention.costs(attention, densities) == convention.costs(SMALL, densities) | {MATMULS: expected}
    assert attention.macs == SMALL.macs + 7


@pytest.mark.parametrize(
    ("convention", "expected"), [("exact", "8.1784e9"), ("rigl_paper", "8.1895e9"), ("rigl_compat_115", "8.2023e9")]
)
def test_published_flops_of_resnet50(convention: str, expected: str) -> None:
    assert as_printed(CONVENTIONS[convention].forward(RESNET50), expected) == expected  # type: ignore[index]


def test_the_quirk_is_imagenets() -> None:
    for other in (network("resnet20_cifar", 32, 10), network("resnet18", 160, 1000), SMALL):
        with pytest.raises(UserError, match="rigl_compat_115: is a quirk of ImageNet ResNets at 224 px"):
            CONVENTIONS["rigl_compat_115"].forward(other)


def test_elth_counts_depth() -> None:
    elth, unit = CONVENTIONS["elth_paper"], CONVENTIONS["exact"].forward(network("resnet34", 224, 1000))
    for depth in (18, 26, 34):
        counted = network(f"resnet{depth}", 224, 1000)
        assert elth.forward(counted) / unit == pytest.approx(depth / 34)
        half = dict.fromkeys(list(counted.shapes)[:5], 0.5)
        assert elth.forward(counted, half) / unit == pytest.approx(depth / 34 * counted.density(half))
    with pytest.raises(UserError, match="not for resnet50"):
        elth.forward(RESNET50)
    cifar = network("resnet20_cifar", 32, 10)
    assert elth.forward(cifar) == CONVENTIONS["exact"].forward(cifar)


class WideBlock(nn.Module):
    """A block of a wide residual network (Zagoruyko & Komodakis 2016): BN, ReLU, convolution, twice."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(width_in), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut = None if width_in == width else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = shortcut + self.conv2(self.relu(self.bn2(self.conv1(active))))
        return out


def test_dpf_counter_gives_the_published_wrn_28_2() -> None:
    widths = [16, 32, 64, 128]
    blocks = [
        WideBlock(widths[stage] if unit == 0 else widths[stage + 1], widths[stage + 1], 2 if stage and not unit else 1)
        for stage in range(3)
        for unit in range(4)
    ]
    head = [nn.BatchNorm2d(128), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(128, 10)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), *blocks, *head)
    counted = count_layers(model, (3, 32, 32))
    assert as_printed(CONVENTIONS["dpf_counter"].forward(counted) / 1e6, "216") == "216"


def test_elementwise_operations_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d((1, 2)), nn.AdaptiveAvgPool2d(1)
    )
    # 4 x 8 x 8 through BN and ReLU; windows of 4 on 4 x 4 x 4, of 2 on 4 x 4 x 2; then all of 4 x 4 x 2
    assert count_layers(model, (3, 8, 8)).elementwise == 3 * 256 + 4 * 64 + 2 * 32 + 32


def test_normalisation_costs_2_and_activations_1_per_element() -> None:
    conv = nn.Conv2d(3, 4, 1)  # to 4 x 8 x 8
    twos: list[nn.Module] = [nn.GroupNorm(2, 4), nn.LayerNorm(8), nn.InstanceNorm2d(4), nn.BatchNorm2d(4)]
    ones: list[nn.Module] = [nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.ReLU6(inplace=True), nn.Sigmoid(), nn.PReLU()]
    for module in [*twos, *ones]:
        counted = count_layers(nn.Sequential(conv, module), (3, 8, 8))
        assert counted.elementwise == 256 * (2 if module in twos else 1), module


def test_functions_cost_what_modules_do() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(F.max_pool2d(torch.relu_(self.conv(x)), 2), (1, 2))
            return x.mean((2, 3))

    assert count_layers(Functional(), (3, 8, 8)).elementwise == 256 + 4 * 64 + 2 * 32 + 32


def test_pools_of_other_dimensions() -> None:
    line = nn.Sequential(nn.Conv1d(3, 4, 1), nn.MaxPool1d(2), nn.AvgPool1d(2))
    assert count_layers(line, (3, 8)).elementwise == 2 * 16 + 2 * 8
    volume = nn.Sequential(nn.Conv3d(3, 4, 1), nn.MaxPool3d(2), nn.AvgPool3d((1, 2, 2)), nn.AdaptiveAvgPool3d(1))
    assert count_layers(volume, (3, 4, 8, 8)).elementwise == 8 * 4 * 32 + 4 * 4 * 8 + 32
