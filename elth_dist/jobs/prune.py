"""mask, at the rewinding weights: prune theta_r by a criterion, to a given density or that of a ticket."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from elth_dist.accounting.layers import count_layers
from elth_dist.accounting.methods import SCORING
from elth_dist.engines.numerics import Numerics
from elth_dist.errors import UserError
from elth_dist.jobs.context import JobContext, Metrics
from elth_dist.jobs.options import PruneJob, Setting
from elth_dist.jobs.training import finish_masks
from elth_dist.models.build import blank_model
from elth_dist.runtime.seeds import derive_seed
from elth_dist.sparsity import criteria
from elth_dist.sparsity.masks import Masks, prunable_weights
from elth_dist.sparsity.options import Criterion, Grasp, Magnitude, Random, Snip, Synflow
from elth_dist.sparsity.selection import exact_count, prune_to
from elth_dist.tickets.controls import copied_weights
from elth_dist.tickets.ticket import Ticket
from elth_dist.training.context import Context
from elth_dist.training.gradients import GlobalBatches, hessian_gradient_products, mean_gradients
from elth_dist.training.loop import Stopped

#: What GraSP looks at unless the option `batches` says otherwise (Wang et al. 2020 and their code).
GRASP_SAMPLES_A_CLASS = 10


def run(options: PruneJob, job: JobContext) -> Metrics:
    """Leave the ticket: theta_r with the new masks. All ranks hold rank 0's scores, and prove that they agree."""
    like = _like(options, job)
    ticket = Ticket.load(job.inputs["ticket"].ticket) if "ticket" in job.inputs else like
    assert ticket is not None, "nothing to prune"
    names = copied_weights(ticket) if options.copies else list(ticket.masks)
    dense = Masks.dense({name: ticket.masks[name].shape for name in names}).to(job.training.ranks.device)
    with Numerics(deterministic=options.setting.train.deterministic).applied():
        model = blank_model(ticket.arch, ticket.num_classes).to_empty(device=job.training.ranks.device)
        model.load_state_dict(ticket.weights)
        pruner = Pruner(job.name, model, options.criterion, options.setting, job.training)
        pruned = pruner.prune(dense, _kept(options, dense, like))
    masks = Masks({**ticket.masks, **pruned.to("cpu")}) if options.copies else pruned.to("cpu")
    found = finish_masks(job, ticket, masks, criterion=options.criterion.name)
    return {**found, "train_flops": pruner.flops}


def _like(options: PruneJob, job: JobContext) -> Ticket | None:
    if options.path is not None:
        return Ticket.load(Path(options.path))
    return Ticket.load(job.inputs["like"].ticket) if "like" in job.inputs else None


def _kept(options: PruneJob, dense: Masks, like: Ticket | None) -> int | dict[str, int]:
    """How many weights are to be kept, in total or in each layer: exactly a like network's number."""
    layerwise = options.criterion.matched == "layerwise"
    if options.density is not None:
        if layerwise:
            return {name: exact_count(options.density, mask.numel()) for name, mask in dense.items()}
        return exact_count(options.density, dense.total)
    assert like is not None, "no density"
    if not layerwise:
        return -(-like.masks.kept * dense.total // like.masks.total)
    counts = like.masks.counts
    for name, mask in dense.items():
        if name not in counts or like.masks[name].shape != mask.shape:
            raise UserError(f"the {like.arch} ticket has no layer {name} of that shape to match")
    return {name: counts[name] for name in dense}


class Pruner:
    """Prunes a bare network on this rank's device by a criterion."""

    def __init__(self, name: str, model: nn.Module, criterion: Criterion, setting: Setting, context: Context) -> None:
        """`name`: of the job; `setting`: seed, global batch and accumulation of the data that the criterion looks at.

        The model's BatchNorm is put into the criterion's mode, and its running statistics may change.
        """
        self._name, self._model, self._criterion = name, model, criterion
        self._setting, self._context = setting, context
        self._weights = prunable_weights(model)
        self.flops = 0  # that the scores took, over all ranks

    def prune(self, masks: Masks, kept: int | dict[str, int]) -> Masks:
        """Prune dense masks to the wanted counts."""
        criterion = self._criterion
        weights: dict[str, nn.Parameter] = {name: self._weights[name] for name in masks}
        match criterion:
            case Magnitude():
                return self._select(masks, criteria.magnitude(weights), kept)
            case Random():
                seed = derive_seed(self._setting.seed, "random scores")
                return self._select(masks, criteria.random(weights, seed), kept)
            case Synflow(variant="published"):
                return self._synflow(masks, kept, criterion.steps)
            case Synflow():
                return self._select(masks, self._snip(weights, Snip(variant="elth_code")), kept)
            case Snip():
                return self._select(masks, self._snip(weights, criterion), kept)
            case Grasp():
                return self._select(masks, self._grasp(weights, criterion), kept)

    def _select(self, masks: Masks, scores: Mapping[str, Tensor], kept: int | dict[str, int]) -> Masks:
        self._context.ranks.broadcast_(scores.values())
        if wrong := [name for name, score in scores.items() if not score.isfinite().all()]:
            raise UserError(
                f"{self._name}: the {self._criterion.name} scores of {wrong[0]} are not finite: training has diverged "
                f"before the rewind step; lower train.lr ({self._setting.train.lr})"
            )
        return prune_to(masks, scores, kept)

    def _snip(self, weights: Mapping[str, nn.Parameter], criterion: Snip) -> dict[str, Tensor]:
        with self._batches(criterion, published=1) as batches:
            self._count("snip", batches.samples)
            return criteria.snip(weights, mean_gradients(self._model, weights, batches, self._context.ranks))

    def _grasp(self, weights: Mapping[str, nn.Parameter], criterion: Grasp) -> dict[str, Tensor]:
        ranks, temperature = self._context.ranks, criterion.temperature
        samples = GRASP_SAMPLES_A_CLASS * self._context.dataset.num_classes
        enough = -(-samples // self._setting.train.global_batch)
        with self._batches(criterion, published=enough) as batches:
            self._count("grasp", batches.samples)
            gradients = mean_gradients(self._model, weights, batches, ranks, temperature=temperature)
            products = hessian_gradient_products(
                self._model, weights, gradients, batches, ranks, temperature=temperature
            )
        return criteria.grasp(weights, products, absolute=criterion.variant == "elth_code")

    def _count(self, criterion: str, samples: int) -> None:
        size = self._context.dataset.image_size
        self.flops += SCORING[criterion] * 2 * count_layers(self._model, (3, size, size)).macs * samples

    def _batches(self, criterion: Snip | Grasp, published: int) -> GlobalBatches:
        """What the criterion looks at; the network is put into the mode in which it does."""
        setting, as_code = self._setting, criterion.variant == "elth_code"
        self._model.train(not as_code)
        return GlobalBatches(
            self._context.dataset,
            seed=derive_seed(setting.seed, "order", "prune"),
            global_batch=setting.train.global_batch,
            accumulate=setting.train.accumulate,
            batches=criterion.batches or (None if as_code else published),
            beat=self._beat,
        )

    def _beat(self) -> None:
        """Between two passes, on all ranks alike. Stopped, if a signal asked for it: the job starts anew next time."""
        self._context.watchdog.beat()
        if self._context.stop.poll():
            raise Stopped(self._name, 0)

    def _synflow(self, masks: Masks, kept: int | dict[str, int], steps: int) -> Masks:
        self._count("synflow", steps)
        scores = criteria.Synflow(self._model, self._context.dataset.image_size)
        totals = {"": masks.total} if isinstance(kept, int) else masks.counts
        wanted = {"": kept} if isinstance(kept, int) else kept
        for step in range(1, steps + 1):
            self._beat()
            counts = criteria.synflow_counts(wanted, totals, step, steps)
            masks = self._select(masks, scores(masks), counts[""] if isinstance(kept, int) else counts)
        return masks
