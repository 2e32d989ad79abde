"""Elastic Ticket Transformation: moving a ticket's units to a deeper or shallower network (E-LTH, section 3)."""

from collections import Counter
from collections.abc import Collection, Iterable

from elth_dist.errors import UserError
from elth_dist.models.build import blank_model
from elth_dist.models.families import architecture
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.tickets.plans import TransferPlan, plan_transfer
from elth_dist.tickets.ticket import Ticket


def transfer(ticket: Ticket, target: str, plan: TransferPlan | None = None) -> Ticket:
    """The ticket, stretched or squeezed to another network of its family.

    Whole units move: weights, parameters and statistics of normalisations, masks. Stem and classifier stay. Level and
    rewind step are the source's; the achieved density usually is not (see `Ticket.density`, `Ticket.stage_densities`).

    Args:
        ticket: any ticket; it is not changed.
        target: name of the target architecture.
        plan: from `plan_transfer`; by default its default plan (interpolate, keep first).

    Raises:
        UserError: the target is unknown or of another family, or the plan is for other networks.
    """
    if plan is None:
        plan = plan_transfer(ticket.arch, target)
    if (plan.source, plan.target) != (ticket.arch, target):
        raise UserError(f"plan: is for {plan.source} -> {plan.target}, not for {ticket.arch} -> {target}")
    blank = blank_model(target, ticket.num_classes, ticket.image_size)
    sources = source_keys(plan, ticket.weights, blank.state_dict())
    weights = {key: ticket.weights[source] for key, source in sources.items()}
    prunable = prunable_weights(blank, architecture(target).excluded)
    masks = Masks({name: ticket.masks[sources[name]] for name in prunable})
    meta = ticket.meta.model_copy(update={"plan": plan, "parent": ticket.hash})
    return Ticket(target, weights, masks, meta)


def source_keys(plan: TransferPlan, source: Iterable[str], target: Collection[str]) -> dict[str, str]:
    """For each state_dict key of the target, in its order, the key of the source that it is filled from.

    Args:
        plan: which unit fills which.
        source: all keys of the source's state_dict.
        target: all keys of the target's state_dict.

    Raises:
        ValueError: some target key would be filled twice, not at all, or does not exist.
    """
    from_network, to_network = architecture(plan.source), architecture(plan.target)
    owned: dict[str | None, list[str]] = {}
    for key in source:
        owned.setdefault(from_network.prefix_of(key), []).append(key)
    moves = [(key, key) for key in owned.get(None, ())]
    for stage, units in enumerate(plan.stages):
        for unit, filled_from in enumerate(units):
            prefixes = zip(
                from_network.unit_prefixes(stage, filled_from), to_network.unit_prefixes(stage, unit), strict=True
            )
            for old, new in prefixes:
                moves += [(new + key.removeprefix(old), key) for key in owned.get(old, ())]
    filled = dict(moves)
    if len(filled) != len(moves):
        twice = Counter(key for key, _ in moves).most_common(1)[0][0]
        raise ValueError(f"{plan.source} -> {plan.target}: {twice!r} is filled twice")
    if wrong := filled.keys() ^ set(target):
        how = "does not exist in the target" if min(wrong) in filled else "is not filled"
        raise ValueError(f"{plan.source} -> {plan.target}: {min(wrong)!r} {how}")
    return {key: filled[key] for key in target}
