"""train, with masks that change: a mask update (RigL, SET, ...) from initialisation to the end."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from elth_dist.jobs.kinds.base import NetworkJob
from elth_dist.registry import job_kinds
from elth_dist.sparsity.updates import AnyMaskUpdate

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows

#: Relative difference of an achieved density from the given one that is worth a line.
_NOTABLE = 0.01


@job_kinds.add
class DynamicJob(NetworkJob):
    """Train from initialisation to the end while masks change."""

    name: ClassVar[str] = "dynamic"
    folder: ClassVar[str] = "train"
    inputs: ClassVar[Mapping[str, str]] = {"like": "the ticket whose density is reached"}
    looked_at: ClassVar[tuple[str, ...]] = ("like",)

    data_order: str
    update: AnyMaskUpdate
    density: float | None = Field(default=None, description="kept fraction, where no ticket is matched")
    path: str | None = Field(default=None, description="ticket file from outside the run, in place of the input `like`")

    @property
    def file(self) -> str | None:
        return self.path

    def part(self, files: Mapping[str, str]) -> dict[str, Any]:
        part = super().part(files)
        if self.density is None:  # up to 0.1.0, a ticket's density was met approximately
            part["matched"] = "number of weights"
        return part

    def check_layers(self, names: Collection[str]) -> None:
        self.update.dense_names(names)

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
        dense = dense_masks(model, setting)
        kept = self._kept(job, dense.total)
        density = kept / dense.total if self.density is None and kept is not None else self.density
        assert density is not None, "neither a density nor a ticket"
        steps_per_epoch = dataset.num_train // recipe.global_batch
        total_steps = recipe.epochs * steps_per_epoch
        update = chosen.stretched()
        updater = update.create(
            dense,
            density=density,
            kept=kept,
            seed=derive_seed(setting.seed, "update", chosen.name),
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            agree=lambda masks: ranks.require_equal(f"masks of {job.name}", masks.hashes()),
        )
        warning = update.warning(total_steps, steps_per_epoch)
        if warning is not None:
            job.training.reporter.warn(f"{job.name}: {chosen.name}: {warning}")
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
        if abs(ticket.density / density - 1) > _NOTABLE:
            job.training.reporter.say(
                f"{job.name}: density {ticket.density:.3%}, not {density:.3%}: layers kept dense come on top under "
                "uniform, as in RigL's paper"
            )
        report_end(job, fitted, masks)
        finish_report(job, fitted)
        return {**training_metrics(fitted), **ticket_metrics(ticket), "criterion": chosen.name}

    def _kept(self, job: "JobContext", total: int) -> int | None:
        """Return how many of `total` weights the matched ticket keeps (in proportion, if it has another number).

        None: no ticket is matched.
        """
        from elth_dist.tickets.ticket import Ticket

        if self.density is not None:
            return None
        like = Ticket.load(job.inputs["like"].ticket if self.path is None else self.path).masks
        return -(-like.kept * total // like.total)

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> None:
        density = self.density
        if density is None:
            like = inputs["like"] if self.path is None else forecast.read(self.path)
            density = forecast.density(like, self.setting)
        ticket = forecast.dense(self.setting)
        shapes = forecast.shapes(ticket)
        densities = self.update.layer_densities(shapes, density, matched=self.density is None)
        forecast.train(name, self.setting, forecast.ticket_like(ticket, densities), update=self.update)

    def title(self, job: "Job", rows: "Rows") -> str:
        return self.update.title

    def method_name(self, job: "Job", rows: "Rows") -> str:
        return self.update.name
