"""train: a ticket, a control made of one, or a dense network, to the end."""

from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.options import TrainJob
from elth_dist.jobs.training import (
    finish_report,
    initial_model,
    load_ticket,
    report_end,
    train,
    train_ticket,
    training_metrics,
)
from elth_dist.models.families import architecture
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.static import StaticMask
from elth_dist.tickets.controls import random_masks, reinitialised, shuffled_copies
from elth_dist.tickets.weights import save_weights


def run(options: TrainJob, job: JobContext) -> Metrics:
    """Leave the trained weights, and the ticket that they were trained from."""
    setting = options.setting
    if options.control == "dense":
        return _train_dense(options, job)
    ticket = load_ticket(options.path, job)
    what = f"{ticket.arch} ticket"
    seed = derive_seed(setting.seed, options.control or "", ticket.hash)
    match options.control:
        case "random":
            ticket, what = random_masks(ticket, seed), f"random masks on {ticket.arch}"
        case "reinit":
            ticket, what = reinitialised(ticket, seed, setting.model.init), f"reinitialised {ticket.arch}"
        case "random_reinit":
            ticket = reinitialised(random_masks(ticket, seed), seed, setting.model.init)
            what = f"random masks on reinitialised {ticket.arch}"
        case "shuffled_copies":
            ticket, what = shuffled_copies(ticket, seed), f"shuffled copies of {ticket.arch}"
    title = f"{what}, density {ticket.density:.2%}"
    return train_ticket(job, setting, ticket, data_order=options.data_order, title=title)


def _train_dense(options: TrainJob, job: JobContext) -> Metrics:
    """One uninterrupted training from initialisation, with the data order of `pretrain` from its first step."""
    setting = options.setting
    model = initial_model(setting, job.training.dataset.num_classes)
    masks = Masks.dense(model, architecture(setting.model.arch).excluded)
    title = f"dense {setting.model.arch}"
    fitted = train(job, setting, model, StaticMask(masks), data_order=options.data_order, title=title)
    if job.is_main:
        save_weights(job.folder.trained, fitted.weights)
    report_end(job, fitted, masks)
    finish_report(job, setting, fitted)
    return {**training_metrics(fitted), "arch": setting.model.arch, "density": 1.0}
