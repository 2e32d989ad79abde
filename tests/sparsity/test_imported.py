"""Masks of torch.nn.utils.prune, of zeros and of wrapped checkpoints."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from elth_dist.models.build import build_model
from elth_dist.sparsity.imported import import_masks
from elth_dist.sparsity.masks import prunable_weights
from elth_dist.tickets.ticket import Ticket, TicketMeta

META = TicketMeta(dataset="digits", level=0, rewind_step=0)


def pruned() -> tuple[nn.Module, nn.Module]:
    """A network, and a copy pruned by torch to 30 % of all weights."""
    model = build_model("resnet8_cifar", 10, seed=0)
    other = copy.deepcopy(model)
    weights = [(m, "weight") for m in other.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    torch_prune.global_unstructured(weights, torch_prune.L1Unstructured, amount=0.7)
    return model, other


def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torch.compile and DDP leave a checkpoint; in fp16, and of a time before num_batches_tracked."""
    return {
        f"module._orig_mod.{name}": tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def test_a_pruned_model_becomes_a_ticket() -> None:
    model, other = pruned()
    imported = import_masks(other)
    for name, mask in imported.masks.items():
        assert torch.equal(mask, other.get_buffer(f"{name}_mask").bool())
    assert all(torch.equal(imported.weights[name], tensor) for name, tensor in model.state_dict().items())
    ticket = Ticket("resnet8_cifar", imported.weights, imported.masks, META)
    assert ticket.density == pytest.approx(0.3, abs=1e-4)
    assert list(ticket.masks) == list(prunable_weights(model))
    assert import_masks(nn.DataParallel(other)).masks == imported.masks


def test_a_state_dict_with_masks() -> None:
    _, other = pruned()
    imported = import_masks(other.state_dict())
    assert imported.masks == import_masks(other).masks
    assert import_masks({"epoch": 3, "state_dict": other.state_dict()}).masks == imported.masks


def test_wrappers_and_half_precision() -> None:
    model, other = pruned()
    imported = import_masks(wrapped(other.state_dict()))
    assert imported.masks == import_masks(other).masks
    build_model("resnet8_cifar", 10).load_state_dict(imported.weights, strict=True)
    assert Ticket("resnet8_cifar", imported.weights, imported.masks, META).density == pytest.approx(0.3, abs=1e-4)
    assert torch.equal(imported.weights["conv1.weight"], model.state_dict()["conv1.weight"].half().float())


def test_zeros() -> None:
    _, other = pruned()
    masks = import_masks(other).masks
    for module in other.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            torch_prune.remove(module, "weight")
    with pytest.raises(ValueError, match="zeros=True"):
        import_masks(other)
    for source in (other, other.state_dict(), wrapped(other.state_dict())):
        imported = import_masks(source, zeros=True)
        assert imported.masks.kept == pytest.approx(masks.kept, abs=5)  # fp16 makes tiny weights zero
    assert import_masks(other, zeros=True).masks == masks


def test_where_only_some_layers_are_masked() -> None:
    model = build_model("resnet8_cifar", 10, seed=0)
    torch_prune.l1_unstructured(model.get_submodule("layer1.0.conv1"), "weight", amount=0.5)
    masks = import_masks(model).masks
    assert masks.densities["layer1.0.conv1.weight"] == 0.5
    assert masks.densities["fc.weight"] == 1
    assert "fc.weight" not in import_masks(model, excluded=["fc.weight"]).masks


def test_a_masked_bias_is_multiplied_out() -> None:
    linear = nn.Linear(4, 4)
    nn.init.ones_(linear.bias)
    torch_prune.random_unstructured(linear, "bias", amount=2)
    torch_prune.random_unstructured(linear, "weight", amount=3)
    masks, weights = import_masks(linear)
    assert list(masks) == ["weight"]
    assert masks.kept == 13
    assert weights.keys() == {"weight", "bias"}
    assert weights["bias"].sum() == 2


def test_what_a_family_never_prunes_has_no_mask() -> None:
    model = build_model("vgg13", 10, seed=0)
    torch_prune.l1_unstructured(model.get_submodule("features.0"), "weight", amount=0.5)
    imported = import_masks(model)
    assert "fc.weight" not in imported.masks
    Ticket("vgg13", imported.weights, imported.masks, META)


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.arange(weight.numel()).view(weight.shape) % 2)


def test_parametrized_weights_are_named_and_imported() -> None:
    model = build_model("resnet8_cifar", 10, seed=0)
    parametrize.register_parametrization(model.get_submodule("layer1.0.conv1"), "weight", Half())
    message = r"'layer1.0.conv1.weight' is not a parameter .*parametrize \(Half\).*elth_dist.import_masks"
    with pytest.raises(ValueError, match=message):
        prunable_weights(model)
    masks, weights = import_masks(model, zeros=True)
    assert masks.densities["layer1.0.conv1.weight"] == 0.5
    build_model("resnet8_cifar", 10).load_state_dict(weights, strict=True)
    with pytest.raises(ValueError, match="give the model instead"):
        import_masks(model.state_dict(), zeros=True)


def test_other_computed_weights_are_named() -> None:
    _, other = pruned()
    with pytest.raises(ValueError, match=r"torch\.nn\.utils\.prune"):
        prunable_weights(other)
    assert prunable_weights(other, list(prunable_weights(pruned()[0]))) == {}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "is empty"),
        ({"a.weight": 3}, "'a.weight' is a int"),
        ({"a.weight_orig": torch.ones(2, 2), "a.weight_mask": torch.ones(2)}, "the mask of 'a.weight' is"),
        ({"a.weight_orig": torch.ones(2, 2), "a.weight_mask": torch.full((2, 2), 0.5)}, "other values than 0 and 1"),
        (
            {"a.weight": torch.ones(2, 2), "a.weight_orig": torch.ones(2, 2), "a.weight_mask": torch.ones(2, 2)},
            "is there twice",
        ),
    ],
)
def test_import_refuses(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        import_masks(state)
