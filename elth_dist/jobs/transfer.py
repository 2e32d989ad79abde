"""transfer: elastic ticket transformation to another depth."""

from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.options import TransferJob
from elth_dist.jobs.training import load_ticket, ticket_metrics
from elth_dist.tickets.elastic import transfer


def run(options: TransferJob, job: JobContext) -> Metrics:
    """Leave the transferred ticket. Rank 0's is the one that counts; all ranks prove that they would have made it."""
    ranks = job.training.ranks
    source = load_ticket(options.path, job)
    rules = options.transfer
    made = transfer(source, rules.to, rules.plan_from(source.arch))
    ranks.require_equal(f"ticket of {job.name}", {"content": int(made.hash[:16], 16), **made.masks.hashes()})
    if job.is_main:
        made.save(job.folder.ticket)
    assert made.meta.plan is not None
    job.training.reporter.say(
        f"{job.name}: {source.arch} -> {made.arch}, density {source.density:.2%} -> {made.density:.2%} "
        f"({', '.join(f'{part} {density:.2%}' for part, density in made.stage_densities.items())})"
    )
    return {
        **ticket_metrics(made),
        "source_arch": source.arch,
        "source_density": source.density,
        "stage_densities": made.stage_densities,
        "plan": made.meta.plan.text,
    }
