"""train: a ticket, a control made of one, or a dense network, to the end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from elth_dist.jobs.kinds.base import NetworkJob
from elth_dist.registry import controls, job_kinds

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.controls import Alteration
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows


@job_kinds.add
class TrainJob(NetworkJob):
    """Train to the end: the ticket of the input or of the file `path`, a control made of it, or a dense network."""

    name: ClassVar[str] = "train"
    folder: ClassVar[str] = "train"
    trains: ClassVar[bool] = True
    inputs: ClassVar[Mapping[str, str]] = {"ticket": "what is trained, or what the control is made of"}

    data_order: str
    control: str | None = Field(default=None, description="'dense', or the name of an alteration (jobs.controls)")
    path: str | None = None

    @property
    def file(self) -> str | None:
        return self.path

    def builds_on_file(self, inputs: Mapping[str, str]) -> bool:
        return self.path is not None

    def end_step(self, steps_per_epoch: int) -> int:
        return self.setting.train.epochs * steps_per_epoch

    def run(self, job: "JobContext") -> "Metrics":
        """Write the trained weights, and the ticket from which they were trained."""
        from elth_dist.jobs.training import load_ticket, train_ticket
        from elth_dist.runtime.seeds import derive_seed

        if self.control == "dense":
            return self._train_dense(job)
        setting, ticket = self.setting, load_ticket(self.path, job)
        what = f"{ticket.arch} ticket"
        if self.control is not None:
            alteration: Alteration = controls[self.control]()
            ticket = alteration.alter(ticket, derive_seed(setting.seed, self.control, ticket.hash), setting.model.init)
            what = f"{alteration.label} of {ticket.arch}"
        title = f"{what}, density {ticket.density:.2%}"
        return train_ticket(job, setting, ticket, data_order=self.data_order, title=title)

    def _train_dense(self, job: "JobContext") -> "Metrics":
        """Train without masks from initialisation to the end, in the data order of `pretrain`."""
        from elth_dist.jobs.training import (
            dense_masks,
            finish_report,
            initial_model,
            report_end,
            train,
            training_metrics,
        )
        from elth_dist.sparsity.updates.static import StaticMask
        from elth_dist.tickets.weights import save_weights

        setting = self.setting
        model = initial_model(setting, job.training.dataset)
        masks = dense_masks(model, setting)
        title = f"dense {setting.model.arch}"
        fitted = train(job, setting, model, StaticMask(masks), data_order=self.data_order, title=title)
        if job.is_main:
            save_weights(job.folder.trained, fitted.weights)
        report_end(job, fitted, masks)
        finish_report(job, setting, fitted)
        return {**training_metrics(fitted), "arch": setting.model.arch, "density": 1.0}

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> None:
        ticket = inputs.get("ticket") if self.path is None else forecast.read(self.path)
        forecast.train(name, self.setting, ticket or forecast.dense(self.setting))

    def title(self, job: "Job", rows: "Rows") -> str:
        if self.control == "dense":
            return "dense"
        ticket = rows.ticket_title(job.inputs["ticket"]) if "ticket" in job.inputs else "ticket"
        return ticket if self.control is None else f"{controls[self.control].label} ({ticket})"
