"""The three jobs of iterative magnitude pruning: train to theta_r, train a level, prune for the next level."""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from elth_dist.errors import UserError
from elth_dist.jobs.kinds.base import JobKind, NetworkJob, in_order
from elth_dist.options import Step
from elth_dist.registry import job_kinds
from elth_dist.sparsity.distributions import LayerNames, layer_names

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows
    from elth_dist.sparsity.masks import Masks
    from elth_dist.training.repulsion import Repulsion


@job_kinds.add
class PretrainJob(NetworkJob):
    """Train dense from initialisation to the rewind step; keep theta_r."""

    name: ClassVar[str] = "pretrain"
    folder: ClassVar[str] = "pretrain"

    rewind: Step

    def end_step(self, steps_per_epoch: int) -> int:
        return self.rewind.iterations(steps_per_epoch)

    def run(self, job: "JobContext") -> "Metrics":
        """Write the level-0 ticket: theta_r with dense masks; with `rewind: 0`, the initialisation theta_0."""
        from elth_dist.jobs.training import (
            dense_masks,
            finish_report,
            initial_model,
            ticket_metrics,
            train,
            training_metrics,
        )
        from elth_dist.sparsity.updates.static import StaticMask
        from elth_dist.tickets.ticket import Ticket, TicketMeta

        setting = self.setting
        model = initial_model(setting, job.training.dataset)
        masks = dense_masks(model, setting)
        weights, rewind_step, metrics = model.state_dict(), 0, {}
        if self.rewind.amount:
            title = f"dense {setting.model.arch} to the rewind step {self.rewind}"
            fitted = train(
                job, setting, model, StaticMask(masks), data_order="pretrain", title=title, until=self.rewind
            )
            weights, rewind_step, metrics = fitted.weights, fitted.end, training_metrics(fitted)
            finish_report(job, fitted)
        meta = TicketMeta(dataset=setting.data.name, level=0, rewind_step=rewind_step, config=job.identity)
        ticket = Ticket(setting.model.arch, weights, masks, meta)
        if job.is_main:
            ticket.save(job.folder.ticket)
        return {**metrics, **ticket_metrics(ticket)}

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> "TicketForecast":
        rewind = self.rewind.iterations(forecast.steps_per_epoch(self.setting))
        if rewind:
            forecast.train(name, self.setting, forecast.dense(self.setting), end=rewind)
        return forecast.dense(self.setting, rewind_step=rewind)


@job_kinds.add
class LevelJob(NetworkJob):
    """Train the ticket of one level from theta_r to the end."""

    name: ClassVar[str] = "level"
    folder: ClassVar[str] = "level"
    inputs: ClassVar[Mapping[str, str]] = {
        "ticket": "of the level",
        "previous": "of the level before, for the overlap",
        "past_N": "trained level N, from which the weights are repelled",
    }

    level: int
    data_order: str = Field(description="what seeds the data order, together with the run's seed")
    order: int = Field(default=0, description="number of the data order, among those of the same ticket")
    repel: float = Field(default=0.0, description="strength of the repulsion from the optima of earlier levels")

    @property
    def imp_level(self) -> int:
        return self.level

    def end_step(self, steps_per_epoch: int) -> int:
        return self.setting.train.epochs * steps_per_epoch

    def run(self, job: "JobContext") -> "Metrics":
        """Write the level's ticket and its trained weights. Level 0 is the dense network, also from theta_r."""
        from elth_dist.jobs.training import train_ticket
        from elth_dist.tickets.ticket import Ticket

        ticket = Ticket.load(job.inputs["ticket"].ticket)
        previous = Ticket.load(job.inputs["previous"].ticket).masks if self.level else None
        title = f"{ticket.arch} at level {self.level}, density {ticket.density:.2%}"
        return train_ticket(
            job,
            self.setting,
            ticket,
            data_order=self.data_order,
            level=None if self.order else self.level,
            title=in_order(title, self.order),
            order=self.order,
            previous=previous,
            penalty=self._repulsion(job, ticket.masks),
        )

    def _repulsion(self, job: "JobContext", masks: "Masks") -> "Repulsion | None":
        from elth_dist.tickets.weights import load_weights
        from elth_dist.training.repulsion import Repulsion

        optima = [load_weights(folder.trained) for role, folder in job.inputs.items() if role.startswith("past_")]
        return Repulsion(self.repel, optima, masks) if optima else None

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> "TicketForecast":
        forecast.train(name, self.setting, inputs["ticket"])
        return inputs["ticket"]

    def title(self, job: "Job", rows: "Rows") -> str:
        return "IMP"

    def in_usual_order(self) -> Self:
        return self.model_copy(update={"order": 0})

    def method_name(self, job: "Job", rows: "Rows") -> str:
        return "imp"


@job_kinds.add
class MaskJob(JobKind):
    """Prune a ticket by the global magnitude of its trained weights."""

    name: ClassVar[str] = "mask"
    folder: ClassVar[str] = "mask"
    inputs: ClassVar[Mapping[str, str]] = {"ticket": "of the level before", "trained": "the weights of that level"}

    level: int
    prune_fraction: float
    dense_layers: LayerNames = Field(default=(), description="layers that are not pruned")

    def check_layers(self, names: Collection[str]) -> None:
        layer_names(self.dense_layers, names)

    def run(self, job: "JobContext") -> "Metrics":
        """Write the next level's ticket: the same theta_r, with exactly ceil(fraction x remaining) weights pruned.

        The fraction is of all remaining weights, also where some layers stay dense (as `pruning_layers_to_ignore` of
        Frankle's open_lth): the densities of the levels do not depend on them. Every rank selects from the whole
        weights with rank 0's threshold, and all ranks check that they agree. Frankle et al. 2019, "Stabilizing the
        lottery ticket hypothesis".
        """
        from elth_dist.jobs.training import finish_masks
        from elth_dist.sparsity.masks import Masks
        from elth_dist.sparsity.scores import magnitude
        from elth_dist.sparsity.selection import exact_count, prune
        from elth_dist.tickets.ticket import Ticket
        from elth_dist.tickets.weights import load_weights

        ranks = job.training.ranks
        ticket = Ticket.load(job.inputs["ticket"].ticket)
        trained = load_weights(job.inputs["trained"].trained)
        masks = ticket.masks.to(ranks.device)
        whole = layer_names(self.dense_layers, masks)
        competing = Masks({name: mask for name, mask in masks.items() if name not in whole})
        scores = magnitude({name: trained[name].to(ranks.device) for name in competing})
        count = exact_count(self.prune_fraction, masks.kept)
        if whole and count >= competing.kept:
            raise UserError(_nothing_left(whole, masks.kept - count))
        pruned = Masks({**masks, **prune(competing, scores, count, share=ranks.broadcast_json)})
        return finish_masks(job, ticket, pruned.to("cpu"), criterion="magnitude", level=self.level)

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> "TicketForecast":
        before = inputs["ticket"]
        sizes = {name: math.prod(shape) for name, shape in forecast.shapes(before).items()}
        whole = layer_names(self.dense_layers, sizes)
        left = 1 - self.prune_fraction
        if whole:
            kept = {name: before.density(name) * size for name, size in sizes.items()}
            total, dense = sum(kept.values()), sum(kept[name] for name in whole)
            if left * total <= dense:
                raise UserError(_nothing_left(whole, round(left * total)))
            left = (left * total - dense) / (total - dense)
        return forecast.ticket_like(
            before, {name: (1.0 if name in whole else left) * before.density(name) for name in sizes}
        )

    def ticket_method(self, job: "Job", rows: "Rows") -> str:
        return "imp"


def _nothing_left(whole: Collection[str], kept: int) -> str:
    return (
        f"method.dense_layers: {', '.join(whole)} alone keep more than the {kept:,} weights of the next level; name "
        "fewer layers, or choose fewer method.levels"
    )
