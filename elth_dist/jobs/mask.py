"""mask: prune a ticket by the global magnitude of the weights that it trained to."""

from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.options import MaskJob
from elth_dist.jobs.training import ticket_metrics
from elth_dist.sparsity.criteria import magnitude
from elth_dist.sparsity.selection import Threshold, exact_count, prune
from elth_dist.tickets.ticket import Ticket
from elth_dist.tickets.weights import load_weights


def run(options: MaskJob, job: JobContext) -> Metrics:
    """Leave the next level's ticket: the same theta_r, exactly ceil(fraction x remaining) weights fewer (FACTS: IMP).

    Every rank selects from the whole weights; rank 0's threshold decides, and all ranks prove that they agree.
    """
    ranks = job.training.ranks
    ticket = Ticket.load(job.inputs["ticket"].ticket)
    trained = load_weights(job.inputs["trained"].trained)
    masks = ticket.masks.to(ranks.device)
    scores = magnitude({name: trained[name].to(ranks.device) for name in masks})
    pruned = prune(
        masks,
        scores,
        exact_count(options.prune_fraction, masks.kept),
        share=lambda threshold: Threshold(*ranks.broadcast_json(list(threshold))),
    )
    ranks.require_equal(f"masks of {job.name}", pruned.hashes())
    for name in pruned.collapsed():
        job.training.reporter.warn(f"{job.name}: layer collapse: nothing is left of {name}")
    meta = ticket.meta.model_copy(
        update={"level": options.level, "criterion": "magnitude", "parent": ticket.hash, "config": job.identity}
    )
    made = Ticket(ticket.arch, ticket.weights, pruned.to("cpu"), meta)
    if job.is_main:
        made.save(job.folder.ticket)
    return ticket_metrics(made)
