"""train, without masks: a dense network to the end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from elth_dist.jobs.kinds.base import NetworkJob
from elth_dist.registry import job_kinds

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows


@job_kinds.add
class DenseJob(NetworkJob):
    """Train a dense network from initialisation to the end, without interruption at a rewind step."""

    name: ClassVar[str] = "dense"
    folder: ClassVar[str] = "train"

    data_order: str

    def part(self, files: Mapping[str, str]) -> dict[str, Any]:
        return {**super().part(files), "control": "dense"}

    def end_step(self, steps_per_epoch: int) -> int:
        return self.setting.train.epochs * steps_per_epoch

    def run(self, job: "JobContext") -> "Metrics":
        """Leave the trained weights."""
        from elth_dist.jobs.training import (
            about_weights,
            dense_masks,
            finish_report,
            initial_model,
            report_end,
            train,
            training_metrics,
        )
        from elth_dist.sparsity.updates.static import StaticMask
        from elth_dist.tickets.weights import save_weights

        setting = self.setting
        model = initial_model(setting, job.training.dataset)
        masks = dense_masks(model, setting)
        title = f"dense {setting.model.arch}"
        fitted = train(job, setting, model, StaticMask(masks), data_order=self.data_order, title=title)
        if job.is_main:
            save_weights(job.folder.trained, fitted.weights, about_weights(job, setting, fitted, density=1.0))
        report_end(job, fitted, masks)
        finish_report(job, fitted)
        return {**training_metrics(fitted), "arch": setting.model.arch, "density": 1.0}

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> None:
        forecast.train(name, self.setting, forecast.dense(self.setting))

    def title(self, job: "Job", rows: "Rows") -> str:
        return "dense"
