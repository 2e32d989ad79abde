"""Counted once, without computing; held against two counters that other people wrote, and against published figures."""

import copy
import warnings
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from elth_dist.accounting.layers import Layer, count_layers, network
from elth_dist.models.build import blank_model, build_model
from elth_dist.models.families import architecture
from elth_dist.sparsity.masks import prunable_weights

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
        ("vgg13_fc5", 32, 10),
        ("lenet_300_100", 28, 10),
        ("lenet5_caffe", 28, 10),
        ("conv6", 32, 10),
        ("mlp_64x4", 28, 10),
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


#: torchvision's classifiers, with the image size at which they are compared.
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet50": (64, {}),
    "wide_resnet50_2": (64, {}),
    "densenet121": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "efficientnet_b0": (64, {}),
    "regnet_x_400mf": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "convnext_tiny": (64, {}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "vit_b_32": (64, {"image_size": 64}),
}
#: timm's: attention in convolutional networks, class tokens, standardised weights, mixed tokens.
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "mobilevit_xxs": (64, {}),
    "deit_tiny_patch16_224": (64, {"img_size": 64}),
    "nfnet_l0": (64, {}),
    "mixer_s32_224": (224, {}),
    "beit_base_patch16_224": (64, {"img_size": 64}),
    "xcit_nano_12_p16_224": (64, {}),
    "halonet26t": (256, {}),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torch_counts_the_same_of_torchvisions_classifiers(name: str) -> None:
    size, options = TORCHVISION[name]
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # regnet computes its widths with tensors
        model = torchvision.models.get_model(name, **options)
    counted = count_layers(model, (3, size, size))
    assert counted.macs == torch_macs(model.to("meta"), 3, size, size)
    assert list(counted.shapes) == list(prunable_weights(model))
    attention = {"swin_t", "swin_v2_t", "vit_b_32"}
    assert (counted.matmuls > 0) == (name in attention)
    assert all(layer.macs for layer in counted.layers)


@pytest.mark.parametrize("name", TIMM)
def test_torch_counts_the_same_of_timms_classifiers(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra")
    size, options = TIMM[name]
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    counted = count_layers(model, (3, size, size))
    assert counted.macs == torch_macs(model, 3, size, size)
    assert list(counted.shapes) == list(prunable_weights(model))


def test_attention_in_mobilevit_is_counted() -> None:
    """Hooks on convolutions and linear layers see 329 M."""
    timm = pytest.importorskip("timm", reason="timm is an extra")
    with torch.device("meta"):
        counted = count_layers(timm.create_model("mobilevit_xxs"), (3, 256, 256))
    assert (round(counted.macs / 1e6), round((counted.macs - counted.matmuls) / 1e6)) == (407, 329)


def test_layers_are_the_prunable_weights_in_their_order() -> None:
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


def test_density_is_that_of_the_prunable_weights() -> None:
    vgg = network("vgg13", 32, 10)
    assert "fc.weight" not in vgg.shapes
    assert vgg.density({}) == 1
    assert vgg.density(dict.fromkeys(vgg.shapes, 0.25)) == pytest.approx(0.25)


TOKENS, WIDTH, HEADS = 5, 8, 2


class Attention(nn.Module):
    """Queries of one sequence, keys and values of another (the same one, but for the tests of cross-attention)."""

    def __init__(self, queries: int = TOKENS, weights: bool = False, keys: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.queries, self.weights, self.keys = queries, weights, keys

    def forward(self, x: Tensor) -> Tensor:
        keys = x if self.keys is None else x[:, : self.keys] * 2
        out: Tensor = self.attention(x[:, : self.queries] if self.keys else x, keys, keys, need_weights=self.weights)[0]
        return out


def test_an_encoder_by_hand() -> None:
    model = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    counted = count_layers(model, (TOKENS, WIDTH))
    assert counted.layers == (
        Layer("self_attn.in_proj_weight", (3 * WIDTH, WIDTH), TOKENS, TOKENS * 3 * WIDTH),
        Layer("self_attn.out_proj.weight", (WIDTH, WIDTH), TOKENS, TOKENS * WIDTH),
        Layer("linear1.weight", (16, WIDTH), TOKENS, TOKENS * 16),
        Layer("linear2.weight", (WIDTH, 16), TOKENS, TOKENS * WIDTH),
    )
    assert counted.matmuls == 2 * TOKENS * TOKENS * WIDTH
    assert counted.macs == TOKENS * (4 * WIDTH * WIDTH + 2 * 16 * WIDTH) + counted.matmuls
    assert counted.elementwise == 2 * 2 * TOKENS * WIDTH + TOKENS * 16


class Scaled(nn.Module):
    """F.scaled_dot_product_attention, with a learned bias and grouped queries."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.bias = nn.Parameter(torch.zeros(TOKENS, TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (4, 4)).transpose(1, 2).split([2, 1, 1], dim=1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, enable_gqa=True).flatten(1)


@pytest.mark.parametrize("weights", [False, True])
def test_attention_counts_whichever_kernel_computes_it(weights: bool) -> None:
    expected = 2 * TOKENS * TOKENS * WIDTH
    assert count_layers(Attention(weights=weights), (TOKENS, WIDTH)).matmuls == expected
    counted = count_layers(Scaled(), (TOKENS, WIDTH))
    assert counted.matmuls == expected
    assert counted.layers == (Layer("qkv.weight", (2 * WIDTH, WIDTH), TOKENS, TOKENS * 2 * WIDTH),), "a bias is none"


def test_chunks_of_a_weight_are_the_weight() -> None:
    cross = count_layers(Attention(keys=TOKENS), (TOKENS, WIDTH))
    itself = count_layers(Attention(), (TOKENS, WIDTH))
    assert cross.layers == itself.layers
    assert cross.matmuls == itself.matmuls


def test_unequally_used_parts_of_a_weight_are_refused() -> None:
    for queries, keys in ((1, TOKENS), (1, 4)):
        with pytest.raises(ValueError, match=r"^attention\.in_proj_weight: its parts are used unequally often"):
            count_layers(Attention(queries, keys=keys), (TOKENS, WIDTH))


class Learned(nn.Module):
    """Parameters that are added, scaled with, looked up and concatenated, one that is multiplied, one not used."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(torch.zeros(1, TOKENS + 1, WIDTH))
        self.table = nn.Embedding(7, WIDTH)
        self.scale = nn.Parameter(torch.ones(1, WIDTH))
        self.matrix = nn.Parameter(torch.zeros(WIDTH, 3))
        self.unused = nn.Parameter(torch.zeros(2, 2))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) * self.scale + self.position
        x = x + self.table(torch.zeros(TOKENS + 1, dtype=torch.long, device=x.device))
        out: Tensor = self.head(torch.einsum("btc,co->bto", x, self.matrix).mean(1))
        return out


def test_parameters_that_nothing_is_multiplied_with_are_no_layers() -> None:
    counted = count_layers(Learned(), (TOKENS, WIDTH))
    assert [(layer.weight, layer.positions) for layer in counted.layers] == [("matrix", TOKENS + 1), ("head.weight", 1)]
    assert counted.shapes == {"head.weight": (2, 3)}, "a matrix of no known module is never pruned"
    assert counted.matmuls == 0


class Computed(nn.Module):
    """A convolution whose kernel is computed from its weight."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.gain = nn.Parameter(torch.ones(4, 1, 1, 1))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        w = self.conv.weight
        kernels = {
            "multiple": lambda: self.gain * (w / 3),
            "cast": lambda: w.double().contiguous().to(x.dtype),
            "masked": lambda: w * torch.ones_like(w),
            "copied": lambda: w.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
            "standardised": lambda: (w - w.mean((1, 2, 3), keepdim=True)) * self.gain,
            "shifted": lambda: w.clone().add_(1),
        }
        return F.conv2d(x, kernels[self.how]())


@pytest.mark.parametrize("how", ["multiple", "cast", "masked", "copied", "standardised", "shifted"])
def test_a_pruned_weight_saves_what_it_is_still_zero_in(how: str) -> None:
    counted = count_layers(Computed(how), (3, 10, 10))
    [layer] = counted.layers
    dense = how in ("standardised", "shifted")
    assert (layer.weight, layer.positions, layer.outputs) == ("conv.weight", 0 if dense else 64, 0 if dense else 4 * 64)
    assert counted.matmuls == (108 * 64 if dense else 0)
    assert counted.macs == 108 * 64
    assert counted.elementwise == 0, "a weight is no sample"


def test_parametrized_weights_are_counted() -> None:
    model = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(6, 5)))
    [layer] = count_layers(model, (2, 3)).layers
    assert (layer.weight, layer.macs) == ("1.parametrizations.weight.original1", 30)


def test_products_with_vectors() -> None:
    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(3, 4))
            self.vector = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.addmv(self.vector, self.matrix, x[0])
            return (self.matrix @ x[0]).dot(rows) + torch.addbmm(rows[:, None], self.matrix[None], x[..., None])

    counted = count_layers(Vectors(), (4,))
    assert [(layer.weight, layer.macs) for layer in counted.layers] == [("matrix", 3 * 12)]
    assert counted.matmuls == 3


class Distances(nn.Module):
    """Distances to learned points."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.zeros(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.points, compute_mode="donot_use_mm_for_euclid_dist")


def test_what_is_not_understood_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(Distances()))
    with pytest.raises(ValueError, match=r"^1\.0 \(Distances\): the FLOPs of aten\._cdist_forward.* are not known$"):
        count_layers(model, (8,))
    with pytest.raises(ValueError, match=r"aten\._trilinear\.default"):
        count_layers(Twice(nn.Bilinear(8, 8, 3)), (8,))
    with pytest.raises(ValueError, match=r"^\(Spectrum\): the FLOPs of aten\._fft_r2c"):
        count_layers(Spectrum(8, 8), (8,))
    formula = {torch.ops.aten._cdist_forward: lambda x, points, *_, **__: 2 * x.numel() * points.shape[-2]}
    monkeypatch.setitem(flop_registry, *formula.popitem())
    assert [layer.macs for layer in count_layers(model, (8,)).layers] == [64, 24]


class Twice(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self[0](x, x)
        return out


class Spectrum(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.fft.fft(x).real)


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(3)[0].to(x.device) + torch.rand_like(x)


def test_nothing_is_left_behind() -> None:
    noisy, refused = Noisy(4, 4), Spectrum(8, 8)
    before = torch.get_rng_state()
    assert torch.backends.mha.get_fastpath_enabled()
    assert count_layers(noisy, (4,)).macs == 16
    with pytest.raises(ValueError, match="_fft_r2c"):
        count_layers(refused, (8,))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.equal(before, torch.get_rng_state())
    with torch.inference_mode():
        assert count_layers(Attention(), (TOKENS, WIDTH)).matmuls == 2 * TOKENS * TOKENS * WIDTH
