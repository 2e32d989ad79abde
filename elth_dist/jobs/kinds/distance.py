"""distance: L2 distances and angles between the trained weights of networks, in pairs. Runs no network."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from elth_dist.jobs.kinds.base import JobKind
from elth_dist.registry import job_kinds

if TYPE_CHECKING:
    from torch import Tensor

    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.runtime.job_folder import JobFolder
    from elth_dist.sparsity.masks import Masks


@job_kinds.add
class DistanceJob(JobKind):
    """Compare the trained weights of several jobs of one network, each with each, on the weights that both keep."""

    name: ClassVar[str] = "distance"
    folder: ClassVar[str] = "distance"
    inputs: ClassVar[Mapping[str, str]] = {"network_N": "a trained network, N from 0"}

    labels: tuple[str, ...]  # of the networks, in the order of their roles

    def run(self, job: "JobContext") -> "Metrics":
        """Compute matrices over all pairs, of all weights together and of each layer."""
        from elth_dist.connectivity.distances import distances
        from elth_dist.tickets.weights import load_weights

        folders = [job.inputs[f"network_{number}"] for number in range(len(self.labels))]
        weights = [load_weights(folder.trained) for folder in folders]
        networks = [(each, _masks(folder, each)) for folder, each in zip(folders, weights, strict=True)]
        found: dict[str, dict[str, list[list[float]]]] = {}
        for row, (one, one_masks) in enumerate(networks):
            for other, other_masks in networks[: row + 1]:
                job.training.watchdog.beat()
                total, layers = distances(one, other, one_masks, other_masks)
                for name, each in {"total": total, **layers}.items():
                    matrices = found.setdefault(name, {"l2": [], "angle": [], "cosine": []})
                    for measure, matrix in matrices.items():
                        if len(matrix) == row:
                            matrix.append([])
                        matrix[row].append(round(getattr(each, measure), 6))
        return {"distance": {"labels": list(self.labels), "total": found.pop("total"), "layers": found}}

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> None:
        """Predict nothing: it trains no network."""


def _masks(folder: "JobFolder", weights: "Mapping[str, Tensor]") -> "Masks":
    """Read the masks of a job's trained weights; a job without a ticket has trained a dense network."""
    from elth_dist.models.build import model_from
    from elth_dist.models.families import architecture
    from elth_dist.sparsity.masks import Masks
    from elth_dist.tickets.ticket import Ticket
    from elth_dist.tickets.weights import load_about

    if folder.ticket.is_file():
        return Ticket.load(folder.ticket).masks
    about = load_about(folder.trained)
    assert about is not None, f"{folder.trained} does not say what it is"
    return Masks.dense(model_from(about.arch, weights), architecture(about.arch).excluded)
