"""Shared parts of the jobs that train: train a network with fit() and write the result to the job's folder."""

from pathlib import Path
from typing import Any

from torch import nn

from elth_dist.data.protocol import Dataset
from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.setting import Setting
from elth_dist.models.build import build_model
from elth_dist.models.families import architecture
from elth_dist.models.weights import load_initial
from elth_dist.options import Step
from elth_dist.runtime.checkpoints import Checkpoints
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.static import StaticMask
from elth_dist.sparsity.updates.updater import Updater
from elth_dist.tickets.ticket import Ticket
from elth_dist.tickets.weights import About, save_weights
from elth_dist.training.loop import Fitted, Task, fit
from elth_dist.training.repulsion import Repulsion


def initial_model(setting: Setting, dataset: Dataset) -> nn.Module:
    """The network of a run at step 0, equal on every rank. UserError if `model.weights` does not fit it."""
    chosen, seed = setting.model, derive_seed(setting.seed, "initialisation")
    model = build_model(chosen.arch, dataset.num_classes, dataset.image_size, init=chosen.init, seed=seed)
    if chosen.weights is not None:
        load_initial(model, chosen.weights)
    return model


def dense_masks(model: nn.Module, setting: Setting) -> Masks:
    """Make dense masks for a network's prunable weights."""
    return Masks.dense(model, architecture(setting.model.arch).excluded)


def train(
    job: JobContext,
    setting: Setting,
    model: nn.Module,
    update: Updater,
    *,
    data_order: str,
    title: str,
    order: int = 0,
    start: int = 0,
    until: Step | None = None,
    stretched: int = 1,
    penalty: Repulsion | None = None,
) -> Fitted:
    """Run fit() for a job, with checkpoints in the job's folder.

    `order`: number of the data order, among those of the same ticket.
    """
    stream = [data_order] if order == 0 else [data_order, f"order {order}"]
    task = Task(
        name=job.name,
        title=title,
        model=model,
        update=update,
        seed=derive_seed(setting.seed if setting.data_seed is None else setting.data_seed, "order", *stream),
        start=start,
        until=until,
        stretched=stretched,
        penalty=penalty,
    )
    checkpoints = Checkpoints(job.folder.checkpoints, job.training.ranks)
    return fit(task, setting.train, setting.engine, job.training, checkpoints)


def train_ticket(
    job: JobContext,
    setting: Setting,
    ticket: Ticket,
    *,
    data_order: str,
    level: int | None = None,
    title: str,
    order: int = 0,
    previous: Masks | None = None,
    penalty: Repulsion | None = None,
) -> Metrics:
    """Train a ticket from its rewind step to the end; write the ticket and the trained weights.

    `level`: of IMP, if it trains one, for the report. `order`: number of the data order, among those of this ticket.
    `previous`: masks of the previous level, to report the overlap. `penalty`: a term of the loss.
    """
    fitted = train(
        job,
        setting,
        ticket.model(job.training.dataset.image_size),
        StaticMask(ticket.masks),
        data_order=data_order,
        title=title,
        order=order,
        start=ticket.meta.rewind_step,
        penalty=penalty,
    )
    if job.is_main:
        ticket.save(job.folder.ticket)
        about = about_weights(job, setting, fitted, ticket.density, ticket.meta.level)
        save_weights(job.folder.trained, fitted.weights, about)
    report_end(job, fitted, ticket.masks, previous, level)
    finish_report(job, fitted)
    return {**training_metrics(fitted), **ticket_metrics(ticket)}


def load_ticket(path: str | None, job: JobContext) -> Ticket:
    """Load a job's ticket, from the file that the user named or from an input."""
    return Ticket.load(job.inputs["ticket"].ticket if path is None else Path(path))


def finish_masks(job: JobContext, ticket: Ticket, masks: Masks, *, criterion: str, level: int | None = None) -> Metrics:
    """Write `ticket` with other masks, after checking that all ranks hold the same; warn of layer collapse.

    `level`: the new level, if it changes.
    """
    job.training.ranks.require_equal(f"masks of {job.name}", masks.hashes())
    for name in masks.collapsed():
        job.training.reporter.warn(f"{job.name}: layer collapse: nothing is left of {name}")
    origin: dict[str, Any] = {"criterion": criterion, "parent": ticket.hash, "config": job.identity}
    origin |= {} if level is None else {"level": level}
    made = Ticket(ticket.arch, ticket.weights, masks, ticket.meta.model_copy(update=origin))
    if job.is_main:
        made.save(job.folder.ticket)
    return {**ticket_metrics(made), "criterion": criterion}


def report_end(
    job: JobContext, fitted: Fitted, masks: Masks, previous: Masks | None = None, level: int | None = None
) -> None:
    """Report the end of a training. `previous`: masks of the previous level, to report the overlap."""
    flops = fitted.flops.scalars(fitted.dense_flops)
    job.training.reporter.level_end(fitted.end, masks, fitted.weights, previous, flops, level)


def finish_report(job: JobContext, fitted: Fitted) -> None:
    """Close the job's report with what it is and its final metrics."""
    end = fitted.evaluation
    reporter = job.training.reporter
    reporter.hparams(job.about, {"top1": end.top1, "top5": end.top5, "loss": end.loss})
    reporter.finish_job()


def about_weights(job: JobContext, setting: Setting, fitted: Fitted, density: float, level: int | None = None) -> About:
    """What the file of a job's trained weights says about them."""
    dataset, end = job.training.dataset, fitted.evaluation
    return About(
        arch=setting.model.arch,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        dataset=setting.data.name,
        data=setting.data.resolved(),
        fingerprint=dataset.fingerprint,
        density=density,
        level=level,
        job=job.identity,
        top1=end.top1,
        top5=end.top5,
        val_loss=end.loss,
    )


def training_metrics(fitted: Fitted) -> Metrics:
    """Collect a training's metrics for result.json."""
    end, again = fitted.evaluation, fitted.reestimated
    both = {}
    if again is not None:
        both = {"reestimated_val_loss": again.loss, "reestimated_top1": again.top1, "reestimated_top5": again.top5}
    return {
        "val_loss": end.loss,
        "top1": end.top1,
        "top5": end.top5,
        "start_step": fitted.start,
        "end_step": fitted.end,
        "samples": fitted.samples,
        "train_flops": fitted.flops.train,
        "dense_train_flops": fitted.dense_flops,
        "forward_flops": fitted.flops.forward,
        "dense_forward_flops": fitted.flops.dense_forward,
        **both,
        "diverged": fitted.diverged,
    }


def ticket_metrics(ticket: Ticket) -> Metrics:
    """Collect a ticket's metrics for result.json."""
    return {
        "arch": ticket.arch,
        "level": ticket.meta.level,
        "density": ticket.density,
        "layer_densities": ticket.masks.densities,
    }
