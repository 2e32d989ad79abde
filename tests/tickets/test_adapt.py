"""Tickets for another dataset: a new classifier, another first step."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from elth_dist.models.build import build_model
from elth_dist.models.families import architecture
from elth_dist.tickets import Ticket, transfer
from elth_dist.tickets.__main__ import main
from elth_dist.tickets.adapt import new_classifier, starting_at

Make = Callable[..., Ticket]


@pytest.mark.parametrize("arch", ["resnet8_cifar", "resnet18", "vit_xs4", "lenet5_caffe", "vgg13_fc2", "mlp_16x2"])
@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_only_the_classifier_is_replaced(arch: str, classes: int, make_ticket: Make) -> None:
    ticket = make_ticket(arch, 10)
    adapted = new_classifier(ticket, classes, seed=5)
    classifier = architecture(arch).classifier
    replaced = {classifier, f"{classifier.removesuffix('weight')}bias"}
    fresh = build_model(arch, classes, ticket.image_size, seed=5).state_dict()
    assert adapted.num_classes == classes
    assert list(adapted.weights) == list(ticket.weights)
    for key, tensor in adapted.weights.items():
        assert torch.equal(tensor, fresh[key] if key in replaced else ticket.weights[key]), key
    assert list(adapted.masks) == list(ticket.masks)
    for key, mask in adapted.masks.items():
        assert mask.all() if key == classifier else torch.equal(mask, ticket.masks[key]), key
    assert adapted.image_size == ticket.image_size
    assert (adapted.density > ticket.density) == (classifier in ticket.masks)


def test_the_classifier_depends_on_seed_and_initialisation_alone(make_ticket: Make) -> None:
    one, other = (make_ticket("resnet8_cifar", seed=seed) for seed in (1, 2))
    adapted = new_classifier(one, 7, seed=3)
    assert adapted.hash == new_classifier(one, 7, seed=3).hash
    assert torch.equal(adapted.weights["fc.weight"], new_classifier(other, 7, seed=3).weights["fc.weight"])
    for another in (new_classifier(one, 7, seed=4), new_classifier(one, 7, seed=3, init="torchvision")):
        assert not torch.equal(adapted.weights["fc.weight"], another.weights["fc.weight"])


def test_it_is_told_where_the_ticket_came_from(
    make_ticket: Make, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ticket = make_ticket("resnet8_cifar")
    before = ticket.hash
    adapted = starting_at(new_classifier(ticket, 7, seed=3), 0)
    assert ticket.hash == before, "the source is as it was"
    assert [(change.kind, change.seed, change.init) for change in adapted.meta.controls] == [
        ("new_classifier", 3, "paper"),
        ("start", None, None),
    ]
    assert new_classifier(ticket, 7, seed=3).meta.parent == before
    assert (adapted.meta.dataset, adapted.meta.level, adapted.meta.rewind_step) == ("digits", 5, 0)
    adapted.save(tmp_path / "ticket.safetensors")
    again = Ticket.load(tmp_path / "ticket.safetensors")
    assert (again.hash, again.meta, again.num_classes) == (adapted.hash, adapted.meta, 7)
    assert main(["show", str(tmp_path / "ticket.safetensors")]) == 0
    assert "new_classifier (seed 3), start\n" in capsys.readouterr().out


def test_another_first_step_is_another_ticket_with_equal_tensors(make_ticket: Make) -> None:
    ticket = make_ticket("resnet8_cifar")
    moved = starting_at(ticket, 7)
    assert moved.meta.rewind_step == 7
    assert moved.hash != ticket.hash
    assert all(torch.equal(tensor, ticket.weights[key]) for key, tensor in moved.weights.items())
    assert moved.masks == ticket.masks
    assert starting_at(moved, ticket.meta.rewind_step).hash == ticket.hash


def test_order_of_transfer_and_new_classifier_does_not_matter(make_ticket: Make) -> None:
    ticket = make_ticket("resnet14_cifar")
    first = new_classifier(transfer(ticket, "resnet20_cifar"), 7, seed=3)
    last = transfer(new_classifier(ticket, 7, seed=3), "resnet20_cifar")
    assert first.masks == last.masks
    classifier = {"fc.weight", "fc.bias"}
    assert all(torch.equal(first.weights[key], last.weights[key]) for key in first.weights.keys() - classifier)
