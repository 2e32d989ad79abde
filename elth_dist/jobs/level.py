"""level: train the ticket of one IMP level from theta_r to the end."""

from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.options import LevelJob
from elth_dist.jobs.training import train_ticket
from elth_dist.tickets.ticket import Ticket


def run(options: LevelJob, job: JobContext) -> Metrics:
    """Leave the level's ticket and its trained weights. Level 0 is the dense network, from theta_r like the others."""
    ticket = Ticket.load(job.inputs["ticket"].ticket)
    previous = Ticket.load(job.inputs["previous"].ticket).masks if options.level else None
    title = f"{ticket.arch} at level {options.level}, density {ticket.density:.2%}"
    return train_ticket(job, options.setting, ticket, data_order=options.data_order, title=title, previous=previous)
