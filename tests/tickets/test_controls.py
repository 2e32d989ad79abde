"""The control experiments."""

from collections.abc import Callable

import pytest
import torch

from elth_dist.errors import UserError
from elth_dist.models.build import build_model
from elth_dist.models.families import architecture
from elth_dist.tickets import Ticket, plan_transfer, transfer
from elth_dist.tickets.controls import copied_weights, random_masks, reinitialised, shuffled_copies
from elth_dist.tickets.plans import Order
from elth_dist.tickets.ticket import Change

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


@pytest.mark.parametrize(
    ("target", "order", "copies"),
    [
        ("resnet32_cifar", "interpolate", ["1.2", "1.4"]),  # [0,1,1,2,2]
        ("resnet32_cifar", "append", ["1.3", "1.4"]),  # [0,1,2,1,2]
        ("resnet44_cifar", "interpolate", ["1.2", "1.3", "1.5", "1.6"]),  # [0,1,1,1,2,2,2]
    ],
)
def test_shuffled_copies_permute_second_and_later_copies_only(
    make_ticket: Make, target: str, order: Order, copies: list[str]
) -> None:
    """E-LTH, figure 4. The first unit from each source keeps its mask, wherever it stands."""
    moved = transfer(make_ticket("resnet20_cifar"), target, plan_transfer("resnet20_cifar", target, order))
    control = shuffled_copies(moved, seed=3)
    changed = [name for name, mask in control.masks.items() if not torch.equal(mask, moved.masks[name])]
    units = [f"{stage}.{copy.split('.')[1]}" for stage in (1, 2, 3) for copy in copies]
    assert changed == [f"layer{unit}.conv{conv}.weight" for unit in units for conv in (1, 2)]
    assert changed == copied_weights(moved)
    assert control.masks.counts == moved.masks.counts
    assert _equal_weights(control, moved)
    assert control.meta.controls == (Change(kind="shuffled_copies", seed=3),)


def test_two_copies_of_a_unit_are_shuffled_differently(make_ticket: Make) -> None:
    moved = transfer(make_ticket("resnet20_cifar"), "resnet44_cifar")
    control = shuffled_copies(moved, seed=3)
    assert torch.equal(moved.masks["layer1.2.conv1.weight"], moved.masks["layer1.3.conv1.weight"])
    assert not torch.equal(control.masks["layer1.2.conv1.weight"], control.masks["layer1.3.conv1.weight"])


def test_copies_of_a_vgg_are_convolutions(make_ticket: Make) -> None:
    moved = transfer(make_ticket("vgg13"), "vgg16")  # [0,1,1] in stages 3 to 5
    network = architecture("vgg16")
    assert copied_weights(moved) == [f"{network.unit_prefixes(stage, 2)[0]}.weight" for stage in (2, 3, 4)]


def test_nothing_to_shuffle_is_an_error(ticket: Ticket, make_ticket: Make) -> None:
    for without in (ticket, transfer(make_ticket("resnet20_cifar"), "resnet14_cifar")):
        with pytest.raises(UserError, match="no unit of this resnet14_cifar ticket is a transfer's copy"):
            shuffled_copies(without, 0)


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
    assert both.meta.controls == (Change(kind="random", seed=1), Change(kind="reinit", seed=2, init="paper"))
    assert both.meta.parent == random_masks(ticket, 1).hash
    assert both.masks == random_masks(ticket, 1).masks
    assert _equal_weights(both, reinitialised(ticket, 2))
    assert ticket.meta.controls == ()


def test_random_masks_of_the_authors_code_start_from_a_masked_theta_r(ticket: Ticket) -> None:
    control, whole = random_masks(ticket, 3, premasked=True), random_masks(ticket, 3)
    assert control.masks == whole.masks
    for name, tensor in control.weights.items():
        mask = ticket.masks.get(name, torch.tensor(True))
        assert torch.equal(tensor, ticket.weights[name] * mask)
    started = sum(int((control.weights[name] != 0)[mask].sum()) for name, mask in control.masks.items())
    assert started / control.masks.kept == pytest.approx(ticket.density, abs=0.01), "few start from theta_r"
    assert control.meta.controls[-1].kind == "random_premasked"
    assert control.hash != whole.hash
