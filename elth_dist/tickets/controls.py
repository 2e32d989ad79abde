"""The control experiments that a winning ticket has to beat (E-LTH, table 1 and figure 3).

They compose: ``reinitialised(random_masks(ticket, 1), 1)`` changes both weights and masks.
"""

from dataclasses import replace

import torch
from torch import Tensor

from elth_dist.errors import UserError
from elth_dist.models.build import build_model
from elth_dist.models.families import architecture
from elth_dist.models.options import Init
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.masks import Masks
from elth_dist.tickets.ticket import Change, Ticket, TicketMeta


def random_masks(ticket: Ticket, seed: int, *, premasked: bool = False) -> Ticket:
    """Random: each layer's mask is permuted within the layer, which keeps its density; theta_r stays, whole.

    The same seed gives the same masks anywhere; the global random state is neither read nor changed.

    Args:
        ticket: not changed.
        seed: of the permutations.
        premasked: mask theta_r with the ticket first, as the authors' code: of the kept weights, a share of about the
            layer's density starts from theta_r, and the others from zero.
    """
    shuffled = {name: _permuted(name, mask, seed) for name, mask in ticket.masks.items()}
    control = Change(kind="random_premasked" if premasked else "random", seed=seed)
    weights = ticket.weights
    if premasked:
        weights = {name: tensor.clone() for name, tensor in weights.items()}
        ticket.masks.apply_(weights)
    return replace(ticket, weights=weights, masks=Masks(shuffled), meta=_after(ticket, control))


def shuffled_copies(ticket: Ticket, seed: int) -> Ticket:
    """Shuffled copies (E-LTH, figure 4): as `random_masks`, but only in what the ticket's transfer made as copies.

    Of the units filled from one source unit the first keeps its mask; the others' are permuted within each layer.

    Raises:
        UserError: the ticket was not transferred, or no unit of it is a copy.
    """
    names = copied_weights(ticket)
    shuffled = {name: _permuted(name, mask, seed) if name in names else mask for name, mask in ticket.masks.items()}
    control = Change(kind="shuffled_copies", seed=seed)
    return replace(ticket, masks=Masks(shuffled), meta=_after(ticket, control))


def copied_weights(ticket: Ticket) -> list[str]:
    """The masked weights in the second and later copies that a ticket's transfer made. UserError if there are none."""
    plan = ticket.meta.plan
    network = architecture(ticket.arch)
    prefixes = {
        prefix
        for stage, units in enumerate(plan.copies if plan else ())
        for unit in units
        for prefix in network.unit_prefixes(stage, unit)
    }
    names = [name for name in ticket.masks if network.prefix_of(name) in prefixes]
    if not names:
        raise UserError(f"no unit of this {ticket.arch} ticket is a transfer's copy of another")
    return names


def reinitialised(ticket: Ticket, seed: int, init: Init = "paper") -> Ticket:
    """Reinit: the masks stay; weights and BatchNorm get new initial values (`init` as in `build_model`).

    Never with the bits that ``build_model(seed=seed)`` gives: a run may use its own seed here.
    """
    seed_of_weights = derive_seed(seed, "reinit")
    model = build_model(ticket.arch, ticket.num_classes, ticket.image_size, init=init, seed=seed_of_weights)
    control = Change(kind="reinit", seed=seed, init=init)
    return replace(ticket, weights=model.state_dict(), meta=_after(ticket, control))


def _permuted(name: str, mask: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, "random", name))
    return mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)


def _after(ticket: Ticket, control: Change) -> TicketMeta:
    return ticket.meta.model_copy(update={"parent": ticket.hash, "controls": (*ticket.meta.controls, control)})
