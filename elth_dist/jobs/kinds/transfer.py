"""transfer: elastic ticket transformation to another depth."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from elth_dist.jobs.kinds.base import JobKind
from elth_dist.registry import job_kinds
from elth_dist.tickets.options import TransferOptions

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows


@job_kinds.add
class TransferJob(JobKind):
    """Transfer a ticket to another network of its family; from the input, or from the file `path`."""

    name: ClassVar[str] = "transfer"
    folder: ClassVar[str] = "transfer"
    inputs: ClassVar[Mapping[str, str]] = {"ticket": "the source"}

    transfer: TransferOptions
    path: str | None = None

    @property
    def arch(self) -> str:
        return self.transfer.to

    @property
    def file(self) -> str | None:
        return self.path

    def builds_on_file(self, inputs: Mapping[str, str]) -> bool:
        return self.path is not None

    def run(self, job: "JobContext") -> "Metrics":
        """Write rank 0's transferred ticket, after all ranks checked that they made the same."""
        from elth_dist.jobs.training import load_ticket, ticket_metrics
        from elth_dist.tickets.elastic import transfer

        ranks = job.training.ranks
        source = load_ticket(self.path, job)
        made = transfer(source, self.transfer.to, self.transfer.plan_from(source.arch))
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

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> "TicketForecast":
        source = inputs["ticket"] if self.path is None else forecast.read(self.path)
        return forecast.moved(source, self.transfer)

    def ticket_title(self, job: "Job", rows: "Rows") -> str:
        return f"ETT <- {rows.metrics(job.name)['source_arch']}"

    def ticket_method(self, job: "Job", rows: "Rows") -> str:
        return "ett"
