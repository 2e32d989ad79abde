"""LeNets, Conv-2/4/6, MLPs, VGG-13 with several linear layers: the sizes that papers print, and what they compute."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elth_dist.accounting.layers import network
from elth_dist.errors import UserError
from elth_dist.models.build import blank_model, build_model, check_model, model_from
from elth_dist.models.families import architecture
from elth_dist.models.grey import Grey
from elth_dist.sparsity.masks import prunable_weights
from elth_dist.tickets.plans import plan_transfer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(batch: int, size: int, *, grey: bool) -> Tensor:
    channels = torch.randn(batch, 1 if grey else 3, size, size, generator=torch.Generator().manual_seed(0))
    return channels.expand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)


def parameters(arch: str) -> int:
    return sum(parameter.numel() for parameter in blank_model(arch, 10).parameters())


def prunable(arch: str) -> dict[str, tuple[int, ...]]:
    weights = prunable_weights(blank_model(arch, 10), architecture(arch).excluded)
    return {name: tuple(weight.shape) for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("arch", "published"),
    [
        ("lenet_300_100", 266_610),  # Han et al. 2015 and Frankle & Carbin 2019: 266 K
        ("lenet5_caffe", 431_080),  # Han et al. 2015: 431 K
    ],
)
def test_published_parameters(arch: str, published: int) -> None:
    assert parameters(arch) == published


@pytest.mark.parametrize(
    ("arch", "convolutions", "all_weights"), [("conv2", 38e3, 4.3e6), ("conv4", 260e3, 2.4e6), ("conv6", 1.1e6, 2.3e6)]
)
def test_published_weights_of_conv_networks(arch: str, convolutions: float, all_weights: float) -> None:
    """Frankle & Carbin 2019, figure 2, but for the sum of Conv-6 (1.7 M), which its layers do not make."""
    shapes = prunable(arch)
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    counted = sum(size for name, size in sizes.items() if name.startswith("conv"))
    assert counted == pytest.approx(convolutions, rel=0.05)
    assert sum(sizes.values()) == pytest.approx(all_weights, rel=0.02)
    channels = [64, 64, 128, 128, 256, 256][: int(arch[-1])]
    assert [shape[0] for shape in shapes.values()] == [*channels, 256, 256, 10]


@pytest.mark.parametrize(
    ("arch", "size", "macs"),
    [
        ("lenet_300_100", 28, 784 * 300 + 300 * 100 + 100 * 10),
        ("lenet5_caffe", 28, 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10),
        ("mlp_300x3", 28, 784 * 300 + 2 * 300 * 300 + 300 * 10),
        ("conv2", 32, 32 * 32 * 9 * (3 * 64 + 64 * 64) + 16 * 16 * 64 * 256 + 256 * 256 + 256 * 10),
    ],
)
def test_flops_are_those_of_one_channel_where_the_paper_has_one(arch: str, size: int, macs: int) -> None:
    assert network(arch, size, 10).macs == macs


def test_lenet5_caffe_has_the_published_flops() -> None:
    """2.3 M multiply-accumulates: Caffe's LeNet-5 in Wen et al. 2016 and later studies."""
    assert network("lenet5_caffe", 28, 10).macs == pytest.approx(2.3e6, rel=0.005)


def test_what_is_not_pruned() -> None:
    assert list(prunable("lenet_300_100")) == ["fc1.weight", "fc2.weight", "fc.weight"]
    assert list(prunable("lenet5_caffe")) == ["conv1.weight", "conv2.weight", "fc1.weight", "fc.weight"]
    assert list(prunable("mlp_300x2")) == ["fc1.weight", "fc2.weight"]
    assert [name for name in prunable("vgg13_fc3") if "features" not in name] == [
        "classifier.0.weight",
        "classifier.2.weight",
    ]


@pytest.mark.parametrize(("arch", "hidden"), [("vgg13_fc2", 1), ("vgg13_fc3", 2), ("vgg13_fc5", 4)])
def test_vgg_with_linear_layers_is_vgg13_and_hidden_layers_of_512(arch: str, hidden: int) -> None:
    assert parameters(arch) == parameters("vgg13") + hidden * (512 * 512 + 512)
    model, plain = build_model(arch, 10, seed=1).eval(), build_model("vgg13", 10, seed=2).eval()
    state = model.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    given = images(2, 32, grey=False)
    with torch.no_grad():
        features = plain.get_submodule("features")(given).mean((2, 3))
        for number in range(hidden):
            features = F.relu(
                features @ state[f"classifier.{2 * number}.weight"].T + state[f"classifier.{2 * number}.bias"]
            )
        expected = features @ state["fc.weight"].T + state["fc.bias"]
        torch.testing.assert_close(model(given), expected)


@pytest.mark.parametrize(
    ("source", "target", "stage"),
    [
        ("vgg13_fc2", "vgg13_fc3", (0, 1, 1)),
        ("vgg13_fc2", "vgg13_fc5", (0, 1, 1, 1, 1)),
        ("vgg13_fc3", "vgg13_fc5", (0, 1, 1, 2, 2)),
        ("vgg13_fc5", "vgg13_fc3", (0, 1, 2)),
        ("vgg13_fc5", "vgg13_fc2", (0, 1)),
    ],
)
def test_any_hidden_layer_of_a_vgg_can_be_copied(source: str, target: str, stage: tuple[int, ...]) -> None:
    assert plan_transfer(source, target).stages == ((0, 1),) * 5 + (stage,)


def test_the_first_hidden_layer_of_an_mlp_is_invariant() -> None:
    assert plan_transfer("mlp_100x3", "mlp_100x5").stages == ((0, 1, 1, 2, 2),)
    with pytest.raises(UserError, match="has none to copy"):
        plan_transfer("mlp_100x1", "mlp_100x2")
    with pytest.raises(UserError, match="100-wide layer units"):
        plan_transfer("mlp_100x3", "mlp_101x3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_grey_images_are_read_exactly(dtype: torch.dtype) -> None:
    given = images(4, 28, grey=True).to(dtype)
    assert torch.equal(Grey()(given), given[:, :1])
    colours = images(2, 8, grey=False)
    torch.testing.assert_close(Grey()(colours), colours.mean(1, keepdim=True))


def test_lenet_300_100_computes_what_its_name_says() -> None:
    model = build_model("lenet_300_100", 10, seed=3)
    w = model.state_dict()
    given = images(5, 28, grey=True)
    hidden = F.relu(given[:, 0].reshape(5, 784) @ w["fc1.weight"].T + w["fc1.bias"])
    hidden = F.relu(hidden @ w["fc2.weight"].T + w["fc2.bias"])
    torch.testing.assert_close(model(given), hidden @ w["fc.weight"].T + w["fc.bias"])


def test_lenet5_caffe_computes_what_caffe_does_but_for_its_relus() -> None:
    model = build_model("lenet5_caffe", 10, seed=3)
    w = model.state_dict()
    hidden = images(5, 28, grey=True)[:, :1]
    for name in ("conv1", "conv2"):
        hidden = F.max_pool2d(F.conv2d(hidden, w[f"{name}.weight"], w[f"{name}.bias"]), 2).relu()
    hidden = F.relu(hidden.flatten(1) @ w["fc1.weight"].T + w["fc1.bias"])
    torch.testing.assert_close(model(images(5, 28, grey=True)), hidden @ w["fc.weight"].T + w["fc.bias"])


@pytest.mark.parametrize(
    ("arch", "size"), [("lenet_300_100", 8), ("lenet5_caffe", 16), ("conv6", 8), ("mlp_32x2", 9), ("vgg13_fc2", 16)]
)
@pytest.mark.parametrize("init", ["paper", "torchvision", "glorot"])
def test_other_sizes_and_classes_train(arch: str, size: int, init: str) -> None:
    model = build_model(arch, 7, size, init=init, seed=1)
    logits = model(images(2, size, grey=False))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    check_model(arch, 7, size)


@pytest.mark.parametrize(
    ("arch", "size", "smallest"), [("lenet5_caffe", 15, 16), ("conv6", 7, 8), ("conv4", 3, 4), ("conv2", 1, 2)]
)
def test_images_that_are_too_small(arch: str, size: int, smallest: int) -> None:
    with pytest.raises(UserError, match=f"images of {size} px are too small; valid data.image_size is {smallest} or"):
        blank_model(arch, 10, size)


@pytest.mark.parametrize("size", [16, 17, 19, 28, 31, 32, 48])
@pytest.mark.parametrize("arch", ["lenet_300_100", "lenet5_caffe", "conv4", "mlp_8x2"])
def test_weights_tell_the_image_size_that_they_are_for(arch: str, size: int) -> None:
    weights = build_model(arch, 3, size, seed=0).state_dict()
    told = architecture(arch).image_size(weights)
    assert told is not None
    assert told <= size
    assert {k: v.shape for k, v in blank_model(arch, 3, told).state_dict().items()} == {
        name: weight.shape for name, weight in weights.items()
    }
    again = model_from(arch, weights, size)
    assert all(torch.equal(weight, weights[name]) for name, weight in again.state_dict().items())
    with pytest.raises(UserError, match="the weights are for images of"):
        model_from(arch, weights, size + 8)


def test_weights_of_no_size() -> None:
    for arch, inputs in (("lenet_300_100", 785), ("lenet5_caffe", 801), ("lenet5_caffe", 0)):
        assert architecture(arch).image_size({"fc1.weight": torch.zeros(300, inputs)}) is None
    assert architecture("lenet5_caffe").image_size({}) is None


def test_no_module_is_left_without_a_name() -> None:
    """Keys are those that the papers' layers are called by."""
    for arch in ("lenet_300_100", "lenet5_caffe", "conv4", "mlp_8x3"):
        model = blank_model(arch, 10)
        kinds = {name: type(module) for name, module in model.named_children() if isinstance(module, nn.Linear)}
        assert list(kinds)[-1] == "fc"
        assert list(kinds)[:-1] == [f"fc{number + 1}" for number in range(len(kinds) - 1)]
