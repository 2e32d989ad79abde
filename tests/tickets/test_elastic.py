"""Elastic transformation of whole tickets."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torchvision

from elth_dist.errors import UserError
from elth_dist.models.build import blank_model, build_model
from elth_dist.models.families import architecture
from elth_dist.sparsity.masks import Masks
from elth_dist.tickets import Ticket, plan_transfer, transfer
from elth_dist.tickets.elastic import source_keys
from elth_dist.tickets.plans import Order, Squeeze, TransferPlan

Make = Callable[..., Ticket]


def _check_units(source: Ticket, target: Ticket, plan: TransferPlan) -> None:
    """Compare tensor by tensor, by the plan, without the code under test."""
    old, new = architecture(source.arch), architecture(target.arch)
    seen = set()
    for stage, units in enumerate(plan.stages):
        for unit, filled_from in enumerate(units):
            pairs = zip(old.unit_prefixes(stage, filled_from), new.unit_prefixes(stage, unit), strict=True)
            for old_prefix, new_prefix in pairs:
                for key in [key for key in target.weights if key.startswith(f"{new_prefix}.")]:
                    origin = f"{old_prefix}.{key.removeprefix(f'{new_prefix}.')}"
                    assert torch.equal(target.weights[key], source.weights[origin]), key
                    assert (key in target.masks) == (origin in source.masks)
                    assert key not in target.masks or torch.equal(target.masks[key], source.masks[origin]), key
                    seen.add(key)
    for key in target.weights.keys() - seen:
        assert new.stage_of(key) is None
        assert torch.equal(target.weights[key], source.weights[key])
        assert key not in target.masks or torch.equal(target.masks[key], source.masks[key])


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("resnet14_cifar", "resnet32_cifar"),
        ("resnet32_cifar", "resnet14_cifar"),
        ("resnet20_cifar", "resnet20_cifar"),
        ("vgg13", "vgg16"),
        ("vgg16", "vgg13"),
        ("resnet18", "resnet26"),
        ("resnet26", "resnet18"),
        ("vit_xs4", "vit_xs6"),
        ("vit_xs8", "vit_xs4"),
        ("mlp_32x2", "mlp_32x5"),
        ("mlp_32x5", "mlp_32x1"),
        ("vgg13_fc2", "vgg13_fc5"),
        ("vgg13_fc5", "vgg13_fc3"),
    ],
)
def test_whole_units_move(source: str, target: str, make_ticket: Make) -> None:
    ticket = make_ticket(source)
    before = ticket.hash
    moved = transfer(ticket, target)
    assert (moved.arch, moved.num_classes) == (target, 10)
    assert moved.meta.plan == plan_transfer(source, target)
    assert moved.meta.parent == before
    assert (moved.meta.level, moved.meta.rewind_step, moved.meta.dataset) == (5, 200, "digits")
    _check_units(ticket, moved, plan_transfer(source, target))
    assert replace(ticket).hash == before, "the source is as it was"


@pytest.mark.parametrize("arch", ["resnet8_cifar", "resnet26_cifar", "vgg16"])
def test_transferred_networks_run(arch: str, make_ticket: Make) -> None:
    source = {"resnet8_cifar": "resnet14_cifar", "resnet26_cifar": "resnet14_cifar", "vgg16": "vgg13"}[arch]
    moved = transfer(make_ticket(source), arch)
    model = build_model(arch, 10, seed=9).eval()
    model.load_state_dict(moved.masked_weights(), strict=True)
    logits = model(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


def test_a_transferred_imagenet_ticket_is_torchvisions(make_ticket: Make) -> None:
    moved = transfer(make_ticket("resnet26"), "resnet34")
    torchvision.models.resnet34(num_classes=10).load_state_dict(moved.weights, strict=True)


def test_encoder_blocks_move_with_their_attention_and_layer_norms(make_ticket: Make) -> None:
    ticket = make_ticket("vit_xs4", image_size=16)
    moved = transfer(ticket, "vit_xs8", plan_transfer("vit_xs4", "vit_xs8", order="append"))
    assert moved.image_size == 16
    assert moved.meta.plan is not None
    assert moved.meta.plan.stages == ((0, 1, 1, 2, 3, 1, 2, 3),)
    for unit, source in enumerate(moved.meta.plan.stages[0]):
        for name in ("ln_1.weight", "self_attention.in_proj_bias", "self_attention.in_proj_weight", "mlp.3.weight"):
            new, old = (f"encoder.layers.encoder_layer_{number}.{name}" for number in (unit, source))
            assert torch.equal(moved.weights[new], ticket.weights[old])
            assert (new in moved.masks) == (name in ("self_attention.in_proj_weight", "mlp.3.weight"))
            assert new not in moved.masks or torch.equal(moved.masks[new], ticket.masks[old])
    for name in ("class_token", "encoder.pos_embedding", "encoder.ln.weight", "conv_proj.weight", "heads.head.weight"):
        assert torch.equal(moved.weights[name], ticket.weights[name])
    back = plan_transfer("vit_xs8", "vit_xs4", plan=[[0, 1, 3, 4]])
    assert transfer(moved, "vit_xs4", back).hash == ticket.hash
    logits = moved.model()(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 10)
    with pytest.raises(UserError, match="64-wide encoder units, vit_ti8 of vit with 192-wide encoder units"):
        transfer(ticket, "vit_ti8")


@pytest.mark.parametrize(
    ("source", "target"),
    [("resnet50", "resnet101"), ("resnet101", "resnet152"), ("resnet152", "resnet50"), ("resnet101", "resnet50")],
)
@pytest.mark.parametrize("order", ["interpolate", "append"])
def test_every_tensor_of_a_bottleneck_network_is_filled_from_one_of_its_kind(
    source: str, target: str, order: Order
) -> None:
    old, new = (blank_model(arch, 10).state_dict() for arch in (source, target))
    keys = source_keys(plan_transfer(source, target, order), old, new)
    assert all(new[key].shape == old[filled_from].shape for key, filled_from in keys.items())
    assert all(key.split(".")[2:] == filled_from.split(".")[2:] for key, filled_from in keys.items())


def test_bottlenecks_move_too(make_ticket: Make) -> None:
    plan = plan_transfer("resnet50", "resnet101", order="append")
    with torch.device("meta"):
        keys = source_keys(plan, blank_model("resnet50", 10).state_dict(), blank_model("resnet101", 10).state_dict())
    assert keys["layer3.22.conv3.weight"] == "layer3.5.conv3.weight"
    assert keys["layer3.0.downsample.1.running_var"] == "layer3.0.downsample.1.running_var"
    assert list(keys) == list(blank_model("resnet101", 10).state_dict())


def test_chosen_and_explicit_plans(make_ticket: Make) -> None:
    ticket = make_ticket("resnet20_cifar")
    for plan in (
        plan_transfer("resnet20_cifar", "resnet26_cifar", units=[2]),
        plan_transfer("resnet20_cifar", "resnet32_cifar", plan="0:0;2:1,2,3;1:4"),
        plan_transfer("resnet20_cifar", "resnet14_cifar", squeeze="last"),
    ):
        moved = transfer(ticket, plan.target, plan)
        assert moved.meta.plan == plan
        _check_units(ticket, moved, plan)


@pytest.mark.parametrize(("order", "squeeze"), [("interpolate", "strided"), ("append", "first"), ("append", "last")])
def test_there_and_back_is_the_same_ticket(order: Order, squeeze: Squeeze, make_ticket: Make) -> None:
    ticket = make_ticket("resnet20_cifar")  # two units besides the first; 44 has six: whole runs
    there = transfer(ticket, "resnet44_cifar", plan_transfer("resnet20_cifar", "resnet44_cifar", order=order))
    back = plan_transfer("resnet44_cifar", "resnet20_cifar", squeeze=squeeze)
    again = transfer(there, "resnet20_cifar", back)
    assert again.hash == ticket.hash
    assert again.masks == ticket.masks
    assert there.hash != ticket.hash


def test_theta_r_stays_dense_and_copies_are_apart(make_ticket: Make) -> None:
    moved = transfer(make_ticket("resnet14_cifar"), "resnet20_cifar")
    assert all(moved.weights[name].count_nonzero() == mask.numel() for name, mask in moved.masks.items())
    first, second = (moved.weights[f"layer1.{unit}.conv1.weight"] for unit in (1, 2))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_the_achieved_density_moves(make_ticket: Make) -> None:
    """A dense third unit of stage 3 dropped or copied weighs what it holds: count it by hand."""
    ticket = make_ticket("resnet20_cifar")
    masks = {
        name: torch.full_like(mask, name.startswith("layer3.2.")) | (name in ("conv1.weight", "fc.weight"))
        for name, mask in ticket.masks.items()
    }
    ticket = replace(ticket, masks=Masks(masks))
    dropped = transfer(ticket, "resnet14_cifar")
    assert dropped.stage_densities == {"conv1": 1, "stage 1": 0, "stage 2": 0, "stage 3": 0, "fc": 1}
    assert dropped.density == (432 + 640) / dropped.masks.total
    last = transfer(ticket, "resnet14_cifar", plan_transfer("resnet20_cifar", "resnet14_cifar", squeeze="last"))
    first_unit, unit = 32 * 64 * 9 + 64 * 64 * 9 + 32 * 64, 2 * 64 * 64 * 9
    assert last.stage_densities["stage 3"] == unit / (first_unit + unit)


def test_mistakes(make_ticket: Make) -> None:
    ticket = make_ticket("resnet8_cifar")
    with pytest.raises(UserError, match="one family only"):
        transfer(ticket, "resnet18")
    with pytest.raises(UserError, match="unknown architecture 'resnet9_cifar'"):
        transfer(ticket, "resnet9_cifar")
    with pytest.raises(UserError, match="none to copy"):
        transfer(ticket, "resnet14_cifar")
    with pytest.raises(UserError, match="plan: is for resnet20_cifar -> resnet32_cifar, not for resnet8_cifar"):
        transfer(ticket, "resnet32_cifar", plan_transfer("resnet20_cifar", "resnet32_cifar"))


def test_every_target_tensor_is_written_exactly_once() -> None:
    plan = plan_transfer("resnet14_cifar", "resnet20_cifar")
    source = list(blank_model("resnet14_cifar", 10).state_dict())
    target = list(blank_model("resnet20_cifar", 10).state_dict())
    assert list(source_keys(plan, source, target)) == target
    with pytest.raises(ValueError, match=r"'layer1\.0\.conv1\.weight' is filled twice"):
        source_keys(plan, [*source, "layer1.0.conv1.weight"], target)
    with pytest.raises(ValueError, match=r"'layer1\.1\.bn1\.bias' is not filled"):
        source_keys(plan, [key for key in source if key != "layer1.1.bn1.bias"], [*target])
    with pytest.raises(ValueError, match=r"'head\.weight' does not exist in the target"):
        source_keys(plan, [*source, "head.weight"], target)
    with pytest.raises(ValueError, match=r"'layer1\.1\.conv3\.weight' does not exist in the target"):
        source_keys(plan, [*source, "layer1.1.conv3.weight"], target)
