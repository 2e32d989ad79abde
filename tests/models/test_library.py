"""Classifiers of torchvision and timm: built, initialised, their shapes understood, as tickets."""

import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from elth_dist.errors import UserError
from elth_dist.models.build import architecture_of, blank_model, build_model, check_model, model_from
from elth_dist.models.families import architecture
from elth_dist.models.options import Init, ModelOptions
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.tickets import Ticket, plan_transfer
from elth_dist.tickets.ticket import TicketMeta


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("torchvision/squeezenet1_1", "classifier.1.weight"),
        ("torchvision/shufflenet_v2_x0_5", "fc.weight"),
        ("torchvision/mobilenet_v3_small", "classifier.3.weight"),
        ("torchvision/swin_t", "head.weight"),
        ("torchvision/vit_b_32", "heads.head.weight"),
        ("timm/resnet10t", "fc.weight"),
        ("timm/convnext_atto", "head.fc.weight"),
        ("timm/deit_tiny_distilled_patch16_224", "head_dist.weight"),
    ],
)
def test_the_classifier_is_recognised_and_keys_are_the_librarys(name: str, classifier: str) -> None:
    model = blank_model(name, 7)
    assert architecture_of(model).classifier == classifier
    assert architecture_of(model).num_classes(model.state_dict()) == 7
    assert classifier in prunable_weights(model)
    library, short = name.split("/")
    with torch.device("meta"):
        theirs = (
            torchvision.models.get_model(short, num_classes=7)
            if library == "torchvision"
            else timm.create_model(short, num_classes=7)
        )
    assert list(model.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("torchvision/shufflenet_v2_x0_5", 32),
        ("torchvision/regnet_y_400mf", 32),  # its constructor reads tensors, which the meta device cannot
        ("timm/vit_tiny_patch16_224", 32),
        ("timm/swin_tiny_patch4_window7_224", 32),  # buffers that are not in the state_dict
    ],
)
def test_seeded_apart_from_the_global_random_state_and_the_same_again_from_its_weights(name: str, size: int) -> None:
    before = torch.get_rng_state()
    model = build_model(name, 3, size, init="torchvision", seed=5).eval()
    assert torch.equal(torch.get_rng_state(), before)
    again = build_model(name, 3, size, init="torchvision", seed=5).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())
    other = build_model(name, 3, size, init="torchvision", seed=6).state_dict()
    assert any(not torch.equal(tensor, other[key]) for key, tensor in model.state_dict().items())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(images)
        assert logits.shape == (2, 3)
        assert torch.equal(model_from(name, model.state_dict(), size).eval()(images), logits)


@pytest.mark.parametrize("name", ["torchvision/googlenet", "torchvision/inception_v3"])
def test_auxiliary_classifiers_are_off(name: str) -> None:
    logits = blank_model(name, 7)(torch.empty(2, 3, 96, 96, device="meta"))
    assert logits.shape == (2, 7)


def test_paper_initialisation_over_the_constructors() -> None:
    init: Init
    states = {}
    for init in ("paper", "torchvision"):
        states[init] = build_model("timm/convnext_atto", 100, init=init, seed=1).state_dict()
    weight = states["paper"]["head.fc.weight"]
    assert weight.std().item() == pytest.approx((2 / weight.shape[1]) ** 0.5, rel=0.05)
    assert states["torchvision"]["head.fc.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(states["paper"]["stages.0.blocks.0.gamma"], states["torchvision"]["stages.0.blocks.0.gamma"])


@pytest.mark.parametrize(
    ("name", "size"),
    [("torchvision/vit_b_32", 64), ("torchvision/vit_b_32", 224), ("timm/vit_tiny_patch16_224", 48)],
)
def test_the_image_size_shows_in_the_shapes(name: str, size: int) -> None:
    assert architecture(name).image_size(blank_model(name, 2, size).state_dict()) == size


def test_no_image_size_where_no_shape_depends_on_it() -> None:
    for name in ("torchvision/shufflenet_v2_x0_5", "timm/resnet10t"):
        assert architecture(name).image_size(blank_model(name, 2, 64).state_dict()) is None
    assert architecture("timm/vit_tiny_patch16_224").image_size({}) is None


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("torchvision/wide_resnet50", 224, "did you mean torchvision/wide_resnet50_2"),
        ("torchvision/fcn_resnet50", 224, "unknown architecture 'torchvision/fcn_resnet50': did you mean"),
        ("timm/convnext_tinny", 224, "did you mean timm/convnext_tiny"),
        ("timm/resnet50.nothing", 224, "Invalid pretrained tag"),
        ("torchvision/vit_b_16", 50, "torchvision cannot build it for images of 50 px and 2 classes: .*indivisible"),
    ],
)
def test_what_the_library_cannot_build_is_one_line(name: str, size: int, message: str) -> None:
    ModelOptions(arch=name)  # the form is right: without the library no more can be said
    for build in (blank_model, build_model):
        with pytest.raises(UserError, match=message) as caught:
            build(name, 2, size)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["timm/", "timm/a b", "torchvision/ResNet50", "torchvision/a/b", "timm/hf-hub:x/y"])
def test_names_have_a_form(name: str) -> None:
    with pytest.raises(UserError, match=r"is not the name of a (timm|torchvision) network"):
        architecture(name)


def test_check_model_calls_the_network() -> None:
    check_model("timm/test_convnext", 10, 32)
    check_model("vit_xs4", 10, 16)
    check_model("torchvision/swin_v2_t", 10, 32)
    for name, size, message in [
        ("timm/test_convnext", 16, "timm/test_convnext: cannot take images of 16 px: .*[Kk]ernel size"),
        ("vgg16", 8, "vgg16: cannot take images of 8 px: .*Output size is too small"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            check_model(name, 10, size)
        assert "\n" not in str(caught.value)


def test_without_timm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install elth_dist\[timm\]"):
        build_model("timm/convnext_atto", 2)


def test_tickets(tmp_path: Path) -> None:
    name = "timm/vit_tiny_patch16_224"
    model = build_model(name, 2, 32, seed=0)
    meta = TicketMeta(dataset="digits", level=0, rewind_step=0)
    Ticket(name, model.state_dict(), Masks.dense(model), meta).save(tmp_path / "ticket.safetensors")
    ticket = Ticket.load(tmp_path / "ticket.safetensors")
    assert (ticket.num_classes, ticket.image_size) == (2, 32)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ticket.model().eval()(images), model.eval()(images))
    with pytest.raises(UserError, match="the weights are for images of 32 px, not of 64 px"):
        ticket.model(64)
    with pytest.raises(UserError, match=r"the family timm declares no units, so that tickets of .* but not moved"):
        plan_transfer(name, name)
