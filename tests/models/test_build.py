"""The networks themselves: sizes, keys, initialisation."""

import math
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import Tensor, nn

from elth_dist.errors import UserError
from elth_dist.models.build import architecture_of, blank_model, build_model
from elth_dist.models.options import Init
from elth_dist.sparsity.masks import prunable_weights


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _macs(model: nn.Module, size: int) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image; works on the meta device."""
    counted = []

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counted.append(module.weight[0].numel() * output.numel())
        elif isinstance(module, nn.Linear):
            counted.append(module.in_features * output.numel())

    for module in model.modules():
        module.register_forward_hook(count)
    model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return sum(counted)


@pytest.mark.parametrize(
    ("arch", "prunable", "macs"),
    [("resnet18", 11_678_912, 1.814e9), ("resnet26", 19_051_712, 2.739e9), ("resnet34", 21_779_648, 3.664e9)],
)
def test_published_sizes_imagenet(arch: str, prunable: int, macs: float) -> None:
    model = blank_model(arch, 1000)
    assert sum(weight.numel() for weight in prunable_weights(model).values()) == prunable
    assert _macs(model, 224) == pytest.approx(macs, abs=0.5e6)


def test_published_size_resnet50_v1_5() -> None:
    assert _macs(blank_model("resnet50", 1000), 224) == 4_089_184_256


@pytest.mark.parametrize(("depth", "megamacs"), [(14, 26.657), (20, 40.813), (32, 69.125), (44, 97.436), (56, 125.748)])
def test_published_sizes_cifar(depth: int, megamacs: float) -> None:
    assert _macs(blank_model(f"resnet{depth}_cifar", 10), 32) / 1e6 == pytest.approx(megamacs, abs=0.0005)


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_imagenet_keys_are_torchvisions(arch: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, arch)()
    ours = blank_model(arch, 1000).state_dict()
    assert [(k, v.shape, v.dtype) for k, v in ours.items()] == [
        (k, v.shape, v.dtype) for k, v in theirs.state_dict().items()
    ]


def test_resnet18_loads_into_torchvisions_and_computes_the_same() -> None:
    ours = build_model("resnet18", 1000, seed=0).eval()
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("depth", [13, 16, 19])
def test_vgg_features_are_torchvisions(depth: int) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"vgg{depth}_bn")().features.state_dict()
    ours = blank_model(f"vgg{depth}", 10)
    assert {k: v.shape for k, v in ours.get_submodule("features").state_dict().items()} == {
        k: v.shape for k, v in theirs.items()
    }
    prunable = prunable_weights(ours, architecture_of(ours).excluded)
    assert len(prunable) == depth - 3
    assert "fc.weight" not in prunable
    assert all(f"{name.removesuffix('weight')}bias" in dict(ours.named_parameters()) for name in prunable)


@pytest.mark.parametrize(
    ("arch", "size"), [("resnet8_cifar", 16), ("resnet14_cifar", 32), ("vgg13", 16), ("vgg13", 32), ("resnet18", 32)]
)
@pytest.mark.parametrize("init", ["paper", "torchvision"])
def test_forward_and_backward(arch: str, size: int, init: Init) -> None:
    model = build_model(arch, 7, init=init, seed=1)
    logits = model(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.training


@pytest.mark.parametrize("arch", ["resnet20_cifar", "vgg13"])
@pytest.mark.parametrize("init", ["paper", "torchvision"])
def test_seeded_and_apart_from_the_global_random_state(arch: str, init: Init) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(arch, 10, init=init, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = build_model(arch, 10, init=init, seed=3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], build_model(arch, 10, seed=4).state_dict()["fc.weight"])
    assert not torch.equal(
        build_model(arch, 10).state_dict()["fc.weight"], build_model(arch, 10).get_parameter("fc.weight")
    )


@pytest.mark.parametrize("arch", ["resnet18", "vgg13"])
def test_paper_initialisation(arch: str) -> None:
    model = build_model(arch, 1000, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            expected = math.sqrt(2 / module.weight[0].numel())
            close = 6 / math.sqrt(2 * module.weight.numel())  # six standard errors
            assert module.weight.std().item() == pytest.approx(expected, rel=close)
            assert abs(module.weight.mean().item()) < 6 * expected / math.sqrt(module.weight.numel())
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            gamma = module.weight
            assert 0 <= gamma.min() < 0.2
            assert 0.8 < gamma.max() < 1
            assert gamma.mean().item() == pytest.approx(0.5, abs=6 / math.sqrt(12 * gamma.numel()))
            _assert_fresh_statistics(module)


@pytest.mark.parametrize("arch", ["resnet18", "conv4", "vit_xs4", "torchvision/resnet18"])
def test_glorot_initialisation(arch: str) -> None:
    model = build_model(arch, 1000, init="glorot", seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in, fan_out = module.weight[0].numel(), module.weight[:, 0].numel()
            expected = math.sqrt(2 / (fan_in + fan_out))
            close = 6 / math.sqrt(2 * module.weight.numel())  # six standard errors
            assert module.weight.std().item() == pytest.approx(expected, rel=close)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            _assert_fresh_statistics(module)


@pytest.mark.parametrize("arch", ["resnet18", "vgg13"])
def test_torchvision_initialisation(arch: str) -> None:
    """The same distributions as torchvision's own constructors, judged by each tensor's spread and range."""
    ours = build_model(arch, 1000, init="torchvision", seed=0)
    for module in ours.modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.out_channels * module.weight[0, 0].numel()))
            assert module.weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * module.weight.numel()))
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            _assert_fresh_statistics(module)
    fc = ours.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    if arch == "vgg13":
        assert fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not fc.bias.any()
    else:
        for tensor in (fc.weight, torchvision.models.resnet18().fc.weight):
            assert tensor.abs().max().item() == pytest.approx(1 / math.sqrt(512), rel=1e-3)
        assert fc.bias.abs().max() <= 1 / math.sqrt(512)


def _assert_fresh_statistics(module: nn.BatchNorm2d) -> None:
    assert not module.bias.any()
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    assert not module.running_mean.any()
    assert (module.running_var == 1).all()
    assert module.num_batches_tracked == 0


def test_a_model_knows_its_architecture() -> None:
    assert architecture_of(build_model("resnet8_cifar", 2, seed=0)).name == "resnet8_cifar"
    with pytest.raises(AssertionError, match="Linear was not made by build_model"):
        architecture_of(nn.Linear(1, 1))
    with pytest.raises(UserError, match="resnet21_cifar"):
        build_model("resnet21_cifar", 2)
