"""mask, at the rewinding weights: prune theta_r by a criterion, to a given density or a ticket's density."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from elth_dist.errors import UserError
from elth_dist.jobs.kinds.base import NetworkJob
from elth_dist.jobs.setting import Setting
from elth_dist.registry import job_kinds
from elth_dist.sparsity.criteria import AnyCriterion
from elth_dist.sparsity.distributions import layer_names, left_for_others, matched_uniform

if TYPE_CHECKING:
    from torch import nn

    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows
    from elth_dist.sparsity.masks import Masks
    from elth_dist.tickets.ticket import Ticket
    from elth_dist.training.context import Context


@job_kinds.add
class PruneJob(NetworkJob):
    """Prune at theta_r, starting from dense masks."""

    name: ClassVar[str] = "prune"
    folder: ClassVar[str] = "mask"
    inputs: ClassVar[Mapping[str, str]] = {"ticket": "theta_r", "like": "the ticket whose density is matched"}
    looked_at: ClassVar[tuple[str, ...]] = ("like",)

    criterion: AnyCriterion
    density: float | None = Field(default=None, description="kept fraction, where no ticket is matched")
    path: str | None = Field(default=None, description="ticket file from outside the run, in place of the input `like`")
    copies: bool = Field(
        default=False, description="prune only layers that a transfer copied; keep the masks of `like` elsewhere"
    )

    @property
    def file(self) -> str | None:
        return self.path

    def builds_on_file(self, inputs: Mapping[str, str]) -> bool:
        return self.path is not None and "ticket" not in inputs  # else the file only gives the density

    def check_layers(self, names: Collection[str]) -> None:
        layer_names(self.criterion.dense_layers, names)

    def run(self, job: "JobContext") -> "Metrics":
        """Write the ticket: theta_r with the new masks, made from rank 0's scores; all ranks check that they agree."""
        from elth_dist.engines.numerics import Numerics
        from elth_dist.jobs.training import finish_masks
        from elth_dist.sparsity.masks import Masks
        from elth_dist.tickets.controls import copied_weights
        from elth_dist.tickets.ticket import Ticket

        like = self._like(job)
        ticket = Ticket.load(job.inputs["ticket"].ticket) if "ticket" in job.inputs else like
        assert ticket is not None, "nothing to prune"
        if self.criterion.premasked:
            ticket = _premasked(ticket, like)
        names = copied_weights(ticket) if self.copies else list(ticket.masks)
        whole = layer_names(self.criterion.dense_layers, ticket.masks)
        dense = Masks.dense({name: ticket.masks[name].shape for name in names})
        kept = self._kept(dense, like)
        if whole:
            assert isinstance(kept, int), "layers have no density yet"
            left_for_others({name: mask.shape for name, mask in dense.items()}, kept / dense.total, whole)
            kept -= sum(dense[name].numel() for name in whole)
        competing = Masks({name: mask for name, mask in dense.items() if name not in whole})
        with Numerics(deterministic=self.setting.train.deterministic).applied():
            size = job.training.dataset.image_size
            model = ticket.model(size, masked=False).to(job.training.ranks.device)
            pruned, flops = prune_by_criterion(
                self.criterion,
                model,
                competing.to(job.training.ranks.device),
                kept,
                self.setting,
                job.name,
                job.training,
            )
        masks = Masks({**(ticket.masks if self.copies else dense), **pruned.to("cpu")})
        metrics = finish_masks(job, ticket, masks, criterion=self.criterion.name)
        return {**metrics, "train_flops": flops}

    def _like(self, job: "JobContext") -> "Ticket | None":
        from elth_dist.tickets.ticket import Ticket

        if self.path is not None:
            return Ticket.load(self.path)
        return Ticket.load(job.inputs["like"].ticket) if "like" in job.inputs else None

    def _kept(self, dense: "Masks", like: "Ticket | None") -> int | dict[str, int]:
        """Return how many weights to keep, in total or per layer: exactly as many as the matched ticket."""
        from elth_dist.sparsity.selection import exact_count

        layerwise = self.criterion.matched == "layerwise"
        if self.density is not None:
            if layerwise:
                return {name: exact_count(self.density, mask.numel()) for name, mask in dense.items()}
            return exact_count(self.density, dense.total)
        assert like is not None, "no density"
        if not layerwise:
            return -(-like.masks.kept * dense.total // like.masks.total)
        counts = like.masks.counts
        for name, mask in dense.items():
            if name not in counts or like.masks[name].shape != mask.shape:
                raise UserError(f"the {like.arch} ticket has no layer {name} of that shape to match")
        return {name: counts[name] for name in dense}

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> "TicketForecast":
        like = inputs.get("like") if self.path is None else forecast.read(self.path)
        ticket = inputs.get("ticket") or like
        assert ticket is not None, "nothing to prune"
        if self.copies or (self.criterion.matched == "layerwise" and like is not None):
            assert like is not None, "no densities"
            return forecast.ticket_like(ticket, like.densities)
        density = self.density
        if density is None:
            assert like is not None, "no density"
            density = forecast.density(like, self.setting)
        shapes = forecast.shapes(ticket)
        whole = layer_names(self.criterion.dense_layers, shapes)
        return forecast.ticket_like(ticket, matched_uniform(shapes, density, whole))

    def ticket_title(self, job: "Job", rows: "Rows") -> str:
        if not self.copies:
            return ", ".join([self.criterion.label, *self.criterion.details])
        details = [detail for detail in self.criterion.details if detail != "layer-wise"]
        title = ", ".join([f"{self.criterion.label} in the copies", *details])
        if "ticket" not in job.inputs:
            return title
        return f"{title} ({rows.ticket_title(job.inputs['ticket'])})"

    def ticket_method(self, job: "Job", rows: "Rows") -> str:
        return f"{self.criterion.name}_copies" if self.copies else self.criterion.name


def _premasked(ticket: "Ticket", like: "Ticket | None") -> "Ticket":
    """Set the weights of theta_r to zero that the ticket `like` has pruned."""
    if like is None or like.arch != ticket.arch:
        raise UserError(f"variant: elth_code masks theta_r with a {ticket.arch} ticket's masks: give one as `like`")
    weights = {name: tensor.clone() for name, tensor in ticket.weights.items()}
    like.masks.apply_(weights)
    return replace(ticket, weights=weights)


def prune_by_criterion(
    criterion: AnyCriterion,
    model: "nn.Module",
    dense: "Masks",
    kept: int | dict[str, int],
    setting: Setting,
    job_name: str,
    context: "Context",
) -> "tuple[Masks, int]":
    """Prune a bare network on this rank's device by a criterion.

    Args:
        criterion: scores the weights.
        model: at theta_r. BatchNorm is put into the criterion's mode, and its running statistics may change.
        dense: dense masks of the weights that compete.
        kept: how many weights stay, of all together or of each by name.
        setting: sets seed, global batch and accumulation of the criterion's data.
        job_name: for messages.
        context: ranks, dataset, stop signals and watchdog.

    Returns:
        The masks, and the FLOPs of the scores over all ranks.

    Raises:
        UserError: a score is not finite; names the weight.
    """
    from elth_dist.sparsity.criteria.base import exponential_counts
    from elth_dist.sparsity.selection import prune_to
    from elth_dist.training.evidence import NetworkEvidence

    masks = dense
    totals = {"": dense.total} if isinstance(kept, int) else dense.counts
    wanted = {"": kept} if isinstance(kept, int) else kept
    with NetworkEvidence(job_name, model, dense, setting.train, setting.seed, context) as evidence:
        for number in range(1, criterion.rounds + 1):
            evidence.masks = masks
            scores = criterion.scores(evidence)
            context.ranks.broadcast_(scores.values())
            if wrong := [name for name, score in scores.items() if not score.isfinite().all()]:
                raise UserError(
                    f"{job_name}: the {criterion.name} scores of {wrong[0]} are not finite: training has diverged "
                    f"before the rewind step; lower train.lr ({setting.train.lr})"
                )
            counts = exponential_counts(wanted, totals, number, criterion.rounds)
            masks = prune_to(masks, scores, counts[""] if isinstance(kept, int) else counts)
    return masks, evidence.flops
