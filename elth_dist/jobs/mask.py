"""mask: prune a ticket by the global magnitude of the weights that it trained to."""

from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.options import MaskJob
from elth_dist.jobs.training import finish_masks
from elth_dist.sparsity.criteria import magnitude
from elth_dist.sparsity.selection import exact_count, prune
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
        share=ranks.broadcast_json,
    )
    return finish_masks(job, ticket, pruned.to("cpu"), criterion="magnitude", level=options.level)
