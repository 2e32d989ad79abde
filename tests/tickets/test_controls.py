"""The control experiments."""

from collections.abc import Callable

import pytest
import torch

from elth_dist.models.build import build_model
from elth_dist.tickets import Ticket
from elth_dist.tickets.controls import random_masks, reinitialised
from elth_dist.tickets.ticket import Control

Make = Callable[..., Ticket]


@pytest.fixture
def ticket(make_ticket: Make) -> Ticket:
    return make_ticket("resnet14_cifar")


def _equal_weights(left: Ticket, right: Ticket) -> bool:
    return all(torch.equal(tensor, right.weights[name]) for name, tensor in left.weights.items())


def test_random_masks_permute_within_layers(ticket: Ticket) -> None:
    control = random_masks(ticket, seed=3)
    assert control.masks.counts == ticket.masks.counts
    assert all(not torch.equal(mask, ticket.masks[name]) for name, mask in control.masks.items())
    # kept with probability d in both: overlap d / (2 - d) = 0.18 at d = 0.3, within six standard errors
    assert control.masks.overlap(ticket.masks).total == pytest.approx(0.3 / 1.7, abs=0.01)


def test_random_masks_keep_theta_r_whole(ticket: Ticket) -> None:
    control = random_masks(ticket, seed=3)
    assert _equal_weights(control, ticket)
    assert all(control.weights[name].count_nonzero() == mask.numel() for name, mask in control.masks.items())


def test_every_position_is_equally_likely(make_ticket: Make) -> None:
    ticket = make_ticket("resnet8_cifar", density=0.5)
    tries = 200
    counts = sum(random_masks(ticket, seed).masks["fc.weight"].double() for seed in range(tries))
    expected = ticket.masks.densities["fc.weight"]
    assert isinstance(counts, torch.Tensor)
    chi2 = ((counts - tries * expected).square() / (tries * expected * (1 - expected))).sum().item()
    assert 450 < chi2 < 850, "640 positions: chi-squared near 640, standard deviation 36"


def test_reinitialised_keeps_masks_only(ticket: Ticket) -> None:
    control = reinitialised(ticket, seed=0)
    assert control.masks == ticket.masks
    assert all(not torch.equal(control.weights[name], ticket.weights[name]) for name in ticket.masks)
    assert (control.weights["bn1.running_var"] == 1).all()
    assert (reinitialised(ticket, 0, "torchvision").weights["bn1.weight"] == 1).all()


def test_reinitialised_never_repeats_the_runs_own_initialisation(ticket: Ticket) -> None:
    own = build_model("resnet14_cifar", 10, seed=7).state_dict()
    assert not torch.equal(reinitialised(ticket, seed=7).weights["conv1.weight"], own["conv1.weight"])


@pytest.mark.parametrize("control", [random_masks, reinitialised])
def test_seeded_locally(control: Callable[[Ticket, int], Ticket], ticket: Ticket) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = control(ticket, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert control(ticket, 5).hash == first.hash
    assert control(ticket, 6).hash != first.hash


def test_controls_compose_and_are_recorded(ticket: Ticket) -> None:
    both = reinitialised(random_masks(ticket, 1), 2)
    assert both.meta.controls == (Control(kind="random", seed=1), Control(kind="reinit", seed=2, init="paper"))
    assert both.meta.parent == random_masks(ticket, 1).hash
    assert both.masks == random_masks(ticket, 1).masks
    assert _equal_weights(both, reinitialised(ticket, 2))
    assert ticket.meta.controls == ()
