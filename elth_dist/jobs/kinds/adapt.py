"""adapt: fit a ticket to another dataset, before it is trained there."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist.jobs.kinds.base import JobKind
from elth_dist.jobs.setting import Setting
from elth_dist.options import Step
from elth_dist.registry import job_kinds

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows


@job_kinds.add
class AdaptJob(JobKind):
    """Give a ticket a new classifier, another first step, or both; the ticket of the input or of the file `path`."""

    name: ClassVar[str] = "adapt"
    folder: ClassVar[str] = "adapt"
    inputs: ClassVar[Mapping[str, str]] = {"ticket": "what is adapted"}

    setting: Setting
    classifier: Literal["keep", "new"] = "keep"
    begin: Step | None = Field(default=None, description="step at which the training begins; null: the rewind step")
    path: str | None = None

    @property
    def file(self) -> str | None:
        return self.path

    def builds_on_file(self, inputs: Mapping[str, str]) -> bool:
        return self.path is not None

    def run(self, job: "JobContext") -> "Metrics":
        """Write the adapted ticket."""
        from elth_dist.data.sampling import TrainPlan
        from elth_dist.jobs.training import load_ticket, ticket_metrics
        from elth_dist.runtime.seeds import derive_seed
        from elth_dist.tickets.adapt import new_classifier, starting_at

        setting, dataset, ranks = self.setting, job.training.dataset, job.training.ranks
        source = ticket = load_ticket(self.path, job)
        if self.classifier == "new":
            seed = derive_seed(setting.seed, "classifier")
            ticket = new_classifier(ticket, dataset.num_classes, seed, setting.model.init)
        if self.begin is not None:
            per_epoch = TrainPlan(0, dataset.num_train, setting.train.global_batch).steps_per_epoch
            ticket = starting_at(ticket, self.begin.iterations(per_epoch))
        ranks.require_equal(f"ticket of {job.name}", {"content": int(ticket.hash[:16], 16), **ticket.masks.hashes()})
        if job.is_main:
            ticket.save(job.folder.ticket)
        job.training.reporter.say(
            f"{job.name}: {ticket.arch} ticket of {source.num_classes} classes for {ticket.num_classes}, "
            f"start at step {ticket.meta.rewind_step}, density {source.density:.2%} -> {ticket.density:.2%}"
        )
        return {**ticket_metrics(ticket), "source_density": source.density, "source_classes": source.num_classes}

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> "TicketForecast":
        ticket = inputs["ticket"] if self.path is None else forecast.read(self.path)
        if self.classifier == "new":
            ticket = forecast.with_new_classifier(ticket, self.setting)
        if self.begin is None:
            return ticket
        return forecast.starting_at(ticket, self.begin.iterations(forecast.steps_per_epoch(self.setting)))

    def ticket_title(self, job: "Job", rows: "Rows") -> str:
        ticket = rows.ticket_title(job.inputs["ticket"]) if "ticket" in job.inputs else "ticket"
        ticket += ", new classifier" if self.classifier == "new" else ""
        return ticket if self.begin is None else f"{ticket}, from step {self.begin}"

    def ticket_method(self, job: "Job", rows: "Rows") -> str:
        return rows.ticket_method(job.inputs["ticket"]) if "ticket" in job.inputs else "ticket"
