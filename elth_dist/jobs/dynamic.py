"""train, with masks that change: RigL, SET, SNFS, gradual pruning or DPF from initialisation to the end."""

from pathlib import Path

from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.options import DynamicJob
from elth_dist.jobs.training import finish_report, initial_model, report_end, ticket_metrics, train, training_metrics
from elth_dist.models.families import architecture
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.create import create_update
from elth_dist.tickets.ticket import Ticket, TicketMeta
from elth_dist.tickets.weights import save_weights


def run(options: DynamicJob, job: JobContext) -> Metrics:
    """Leave the trained weights, masked, and as a ticket the masks that the training ended with on its initialisation.

    A training that is `multiplier` times as long follows a schedule stretched by it (RigL, section 4: RigL-Mx).
    """
    ranks, dataset = job.training.ranks, job.training.dataset
    chosen, longer = options.update, options.update.multiplier
    recipe = options.setting.train.stretched(longer)
    setting = options.setting.model_copy(update={"train": recipe})
    model = initial_model(setting, dataset.num_classes)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    density = _density(options, job)
    steps_per_epoch = dataset.num_train // recipe.global_batch
    update = create_update(
        chosen.stretched(),
        Masks.dense(model, architecture(setting.model.arch).excluded),
        density=density,
        seed=derive_seed(setting.seed, "update", chosen.name),
        total_steps=recipe.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        agree=lambda masks: ranks.require_equal(f"masks of {job.name}", masks.hashes()),
    )
    title = f"{chosen.name} on {setting.model.arch}, density {density:.2%}"
    fitted = train(job, setting, model, update, data_order=options.data_order, title=title, stretched=longer)
    masks = update.masks.to("cpu")
    meta = TicketMeta(dataset=setting.data.name, level=0, rewind_step=0, criterion=chosen.name, config=job.identity)
    ticket = Ticket(setting.model.arch, initial, masks, meta)
    if job.is_main:
        ticket.save(job.folder.ticket)
        save_weights(job.folder.trained, fitted.weights)
    for name in masks.collapsed():
        job.training.reporter.warn(f"{job.name}: layer collapse: nothing is left of {name}")
    report_end(job, fitted, masks)
    finish_report(job, setting, fitted)
    return {**training_metrics(fitted), **ticket_metrics(ticket), "criterion": chosen.name}


def _density(options: DynamicJob, job: JobContext) -> float:
    if options.density is not None:
        return options.density
    path = job.inputs["like"].ticket if options.path is None else Path(options.path)
    return Ticket.load(path).density
