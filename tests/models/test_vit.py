"""Vision Transformers: sizes, keys, patches, initialisation."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from elth_dist.errors import UserError
from elth_dist.models.build import blank_model, build_model, model_from
from elth_dist.models.families import architecture
from elth_dist.models.families.vit import patch_size
from elth_dist.models.options import Init
from elth_dist.sparsity.masks import prunable_weights


def test_sizes_are_deits() -> None:
    """5.7 and 22.1 million parameters (Touvron et al. 2021, table 1)."""
    counts = [sum(p.numel() for p in blank_model(name, 1000).parameters()) for name in ("vit_ti12", "vit_s12")]
    assert counts == [5_717_416, 22_050_664]


@pytest.mark.parametrize(
    ("image", "patch"), [(224, 16), (384, 16), (128, 16), (96, 12), (64, 8), (32, 4), (16, 2), (8, 2)]
)
def test_patches_by_image_size(image: int, patch: int) -> None:
    assert patch_size(image) == patch
    state = blank_model("vit_xs4", 10, image).state_dict()
    assert state["conv_proj.weight"].shape == (64, 3, patch, patch)
    assert state["encoder.pos_embedding"].shape == (1, 1 + (image // patch) ** 2, 64)
    assert architecture("vit_xs4").image_size(state) == image


@pytest.mark.parametrize(("image", "nearest"), [(100, 96), (17, 16), (225, 224), (1, 2)])
def test_images_that_cannot_be_cut_name_one_that_can(image: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"images of {image} px .*nearest valid data.image_size is {nearest}$"):
        blank_model("vit_xs4", 10, image)
    blank_model("vit_xs4", 10, nearest)


def test_shapes_of_no_network_here_have_no_image_size() -> None:
    state = blank_model("vit_xs4", 10, 16).state_dict()
    for name, shape in [
        ("encoder.pos_embedding", (1, 0, 64)),
        ("encoder.pos_embedding", (64,)),
        ("encoder.pos_embedding", (1, 257, 64)),
        ("conv_proj.weight", (64, 3, 0, 0)),
        ("conv_proj.weight", (64, 3, 10**6, 10**6)),
    ]:
        assert architecture("vit_xs4").image_size({**state, name: torch.empty(shape, device="meta")}) is None
    assert architecture("vit_xs4").image_size({}) is None


def test_keys_are_torchvisions() -> None:
    theirs = VisionTransformer(16, 2, 4, 2, 64, 256, num_classes=10)
    ours = build_model("vit_xs4", 10, 16, seed=0).eval()
    theirs.eval().load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))
        assert torch.equal(model_from("vit_xs4", ours.state_dict()).eval()(images), theirs(images))


def test_every_conv_and_linear_weight_is_prunable() -> None:
    block = ["self_attention.in_proj_weight", "self_attention.out_proj.weight", "mlp.0.weight", "mlp.3.weight"]
    expected = [f"encoder.layers.encoder_layer_{unit}.{name}" for unit in range(4) for name in block]
    assert list(prunable_weights(blank_model("vit_xs4", 10))) == ["conv_proj.weight", *expected, "heads.head.weight"]


def test_paper_initialisation() -> None:
    model = build_model("vit_ti8", 100, 32, seed=0)
    for name, weight in prunable_weights(model).items():
        expected = math.sqrt(2 / weight[0].numel())
        assert weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * weight.numel())), name
    _check_what_all_do_alike(model)
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_torchvision_initialisation() -> None:
    """The distributions of VisionTransformer's constructor, judged by each tensor's mean, spread and range."""
    ours = build_model("vit_ti8", 100, 32, init="torchvision", seed=0)
    torch.manual_seed(3)
    theirs = VisionTransformer(32, 4, 8, 3, 192, 768, num_classes=100).state_dict()
    for name, tensor in ours.state_dict().items():
        expected = theirs[name]
        if tensor.unique().numel() == 1 or expected.unique().numel() == 1:
            assert torch.equal(tensor, expected), name
            continue
        few = 6 / math.sqrt(2 * tensor.numel())
        assert tensor.std().item() == pytest.approx(expected.std().item(), rel=2 * few), name
        assert tensor.mean().item() == pytest.approx(0, abs=few * 2 * expected.std().item()), name
        if "in_proj" in name or "out_proj" in name or ("mlp" in name and name.endswith("weight")):
            assert tensor.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.01), name
    _check_what_all_do_alike(ours)


def _check_what_all_do_alike(model: nn.Module) -> None:
    assert not model.get_parameter("class_token").any()
    assert model.get_parameter("encoder.pos_embedding").std().item() == pytest.approx(0.02, rel=0.05)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 17
    assert all((module.weight == 1).all() and not module.bias.any() for module in norms)


@pytest.mark.parametrize("init", ["paper", "torchvision"])
def test_seeded_and_apart_from_the_global_random_state(init: Init) -> None:
    before = torch.get_rng_state()
    first = build_model("vit_xs4", 10, 16, init=init, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    again = build_model("vit_xs4", 10, 16, init=init, seed=3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["conv_proj.weight"], build_model("vit_xs4", 10, 16, init=init, seed=4).state_dict()["conv_proj.weight"]
    )
