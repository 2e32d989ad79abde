"""The control experiments that a winning ticket has to beat (E-LTH, table 1 and figure 3).

They compose: ``reinitialised(random_masks(ticket, 1), 1)`` changes both weights and masks.
"""

from dataclasses import replace

import torch

from elth_dist.models.build import build_model
from elth_dist.models.options import Init
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.masks import Masks
from elth_dist.tickets.ticket import Control, Ticket, TicketMeta


def random_masks(ticket: Ticket, seed: int) -> Ticket:
    """Random: each layer's mask is permuted within the layer, which keeps its density; theta_r stays, whole.

    The same seed gives the same masks anywhere; the global random state is neither read nor changed.
    """
    shuffled = {}
    for name, mask in ticket.masks.items():
        generator = torch.Generator().manual_seed(derive_seed(seed, "random", name))
        shuffled[name] = mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)
    control = Control(kind="random", seed=seed)
    return replace(ticket, masks=Masks(shuffled), meta=_after(ticket, control))


def reinitialised(ticket: Ticket, seed: int, init: Init = "paper") -> Ticket:
    """Reinit: the masks stay; weights and BatchNorm are initialised anew (`build_model`'s `init`).

    Never with the bits that ``build_model(seed=seed)`` gives: a run may use its own seed here.
    """
    model = build_model(ticket.arch, ticket.num_classes, init=init, seed=derive_seed(seed, "reinit"))
    control = Control(kind="reinit", seed=seed, init=init)
    return replace(ticket, weights=model.state_dict(), meta=_after(ticket, control))


def _after(ticket: Ticket, control: Control) -> TicketMeta:
    return ticket.meta.model_copy(update={"parent": ticket.hash, "controls": (*ticket.meta.controls, control)})
