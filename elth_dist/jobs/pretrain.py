"""pretrain: train dense from initialisation to the rewind step and keep theta_r."""

from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.options import PretrainJob
from elth_dist.jobs.training import finish_report, initial_model, ticket_metrics, train, training_metrics
from elth_dist.models.families import architecture
from elth_dist.sparsity.masks import Masks
from elth_dist.sparsity.updates.static import StaticMask
from elth_dist.tickets.ticket import Ticket, TicketMeta


def run(options: PretrainJob, job: JobContext) -> Metrics:
    """Leave the level-0 ticket: theta_r with dense masks. With `rewind: 0`, theta_0 as it was initialised."""
    setting = options.setting
    model = initial_model(setting, job.training.dataset.num_classes)
    masks = Masks.dense(model, architecture(setting.model.arch).excluded)
    weights, rewind_step, metrics = model.state_dict(), 0, {}
    if options.rewind.amount:
        title = f"dense {setting.model.arch} to the rewind step {options.rewind}"
        fitted = train(job, setting, model, StaticMask(masks), data_order="pretrain", title=title, until=options.rewind)
        weights, rewind_step, metrics = fitted.weights, fitted.end, training_metrics(fitted)
        finish_report(job, setting, fitted)
    meta = TicketMeta(dataset=setting.data.name, level=0, rewind_step=rewind_step, config=job.identity)
    ticket = Ticket(setting.model.arch, weights, masks, meta)
    if job.is_main:
        ticket.save(job.folder.ticket)
    return {**metrics, **ticket_metrics(ticket)}
