"""train, with masks that change: a mask update (RigL, SET, ...) from initialisation to the end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from elth_dist.jobs.kinds.base import NetworkJob
from elth_dist.registry import job_kinds
from elth_dist.sparsity.updates import AnyMaskUpdate

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows


@job_kinds.add
class DynamicJob(NetworkJob):
    """Train from initialisation to the end while masks change."""

    name: ClassVar[str] = "dynamic"
    folder: ClassVar[str] = "train"
    trains: ClassVar[bool] = True
    inputs: ClassVar[Mapping[str, str]] = {"like": "the ticket whose density is reached"}
    looked_at: ClassVar[tuple[str, ...]] = ("like",)

    data_order: str
    update: AnyMaskUpdate
    density: float | None = Field(default=None, description="kept fraction, where no ticket is matched")
    path: str | None = Field(default=None, description="ticket file from outside the run, in place of the input `like`")

    @property
    def file(self) -> str | None:
        return self.path

    def end_step(self, steps_per_epoch: int) -> int:
        return self.setting.train.epochs * self.update.multiplier * steps_per_epoch

    def run(self, job: "JobContext") -> "Metrics":
        """Write the masked trained weights, and a ticket of the final masks on the initialisation.

        A training that is `multiplier` times as long follows a stretched schedule (RigL, section 4: RigL-Mx).
        """
        from elth_dist.jobs.training import (
            about_weights,
            dense_masks,
            finish_report,
            initial_model,
            report_end,
            ticket_metrics,
            train,
            training_metrics,
        )
        from elth_dist.runtime.seeds import derive_seed
        from elth_dist.tickets.ticket import Ticket, TicketMeta
        from elth_dist.tickets.weights import save_weights

        ranks, dataset = job.training.ranks, job.training.dataset
        chosen, longer = self.update, self.update.multiplier
        recipe = self.setting.train.stretched(longer)
        setting = self.setting.model_copy(update={"train": recipe})
        model = initial_model(setting, dataset)
        initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        density = self._density(job)
        steps_per_epoch = dataset.num_train // recipe.global_batch
        updater = chosen.stretched().create(
            dense_masks(model, setting),
            density=density,
            seed=derive_seed(setting.seed, "update", chosen.name),
            total_steps=recipe.epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            agree=lambda masks: ranks.require_equal(f"masks of {job.name}", masks.hashes()),
        )
        title = f"{chosen.name} on {setting.model.arch}, density {density:.2%}"
        fitted = train(job, setting, model, updater, data_order=self.data_order, title=title, stretched=longer)
        masks = updater.masks.to("cpu")
        meta = TicketMeta(dataset=setting.data.name, level=0, rewind_step=0, criterion=chosen.name, config=job.identity)
        ticket = Ticket(setting.model.arch, initial, masks, meta)
        if job.is_main:
            ticket.save(job.folder.ticket)
            save_weights(job.folder.trained, fitted.weights, about_weights(job, setting, fitted, ticket.density))
        for name in masks.collapsed():
            job.training.reporter.warn(f"{job.name}: layer collapse: nothing is left of {name}")
        report_end(job, fitted, masks)
        finish_report(job, fitted)
        return {**training_metrics(fitted), **ticket_metrics(ticket), "criterion": chosen.name}

    def _density(self, job: "JobContext") -> float:
        from elth_dist.tickets.ticket import Ticket

        if self.density is not None:
            return self.density
        return Ticket.load(job.inputs["like"].ticket if self.path is None else self.path).density

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> None:
        density = self.density
        if density is None:
            like = inputs["like"] if self.path is None else forecast.read(self.path)
            density = forecast.density(like, self.setting)
        ticket = forecast.dense(self.setting)
        densities = self.update.layer_densities(forecast.shapes(self.setting), density)
        forecast.train(name, self.setting, forecast.ticket_like(ticket, densities), update=self.update)

    def title(self, job: "Job", rows: "Rows") -> str:
        return self.update.title

    def method_name(self, job: "Job", rows: "Rows") -> str:
        return self.update.name
