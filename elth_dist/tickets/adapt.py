"""Fit a ticket to another dataset than the one it was found on (E-LTH, tables 6 and 7)."""

import torch

from elth_dist.models.build import build_model
from elth_dist.models.families import architecture
from elth_dist.models.options import Init
from elth_dist.sparsity.masks import Masks
from elth_dist.tickets.ticket import Change, Ticket


def new_classifier(ticket: Ticket, num_classes: int, seed: int, init: Init = "paper") -> Ticket:
    """Replace the classifier by a fresh one that is dense, for `num_classes` classes.

    Its mask is dense even where the number of classes is the same: the old mask says which features tell apart classes
    that the new dataset does not have. The achieved density moves with it.

    Args:
        ticket: any ticket; it is not changed.
        num_classes: of the dataset.
        seed: the same seed gives the same classifier for all tickets of an architecture.
        init: as in `build_model`.

    Raises:
        UserError: the network is no classifier.
    """
    fresh = build_model(ticket.arch, num_classes, ticket.image_size, init=init, seed=seed).state_dict()
    name = architecture(ticket.arch).classifier
    module = name.rpartition(".")[0]
    replaced = {
        key
        for key, tensor in fresh.items()
        if key.rpartition(".")[0] == module or tensor.shape != ticket.weights[key].shape
    }
    weights = {key: fresh[key] if key in replaced else tensor for key, tensor in ticket.weights.items()}
    masks = {
        key: torch.ones(fresh[key].shape, dtype=torch.bool) if key in replaced else mask
        for key, mask in ticket.masks.items()
    }
    change = Change(kind="new_classifier", seed=seed, init=init)
    return _changed(Ticket(ticket.arch, weights, Masks(masks), ticket.meta), ticket, change)


def starting_at(ticket: Ticket, step: int) -> Ticket:
    """Let the training of a ticket begin at a step of the schedule that is not its rewind step; theta_r stays."""
    meta = ticket.meta.model_copy(update={"rewind_step": step})
    return _changed(Ticket(ticket.arch, ticket.weights, ticket.masks, meta), ticket, Change(kind="start"))


def _changed(made: Ticket, before: Ticket, change: Change) -> Ticket:
    meta = made.meta.model_copy(update={"parent": before.hash, "controls": (*before.meta.controls, change)})
    return Ticket(made.arch, made.weights, made.masks, meta)
