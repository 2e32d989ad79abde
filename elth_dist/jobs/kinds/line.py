"""line: error and loss along the straight line between two trained networks. Trains nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from elth_dist.jobs.kinds.base import NetworkJob
from elth_dist.options import Options
from elth_dist.registry import job_kinds

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.prediction import Forecast, TicketForecast


class LineOptions(Options):
    """How the line between two networks is measured."""

    alphas: Annotated[int, Field(ge=2, le=1000)] = Field(
        default=21, description="points on the line, both networks included"
    )
    train_batches: Annotated[int, Field(ge=1)] = Field(
        default=16, description="global batches of augmented training data on which each point is measured"
    )
    val_stride: Annotated[int, Field(ge=1)] = Field(
        default=1, description="every so many validation samples one is measured; 1: all"
    )


@job_kinds.add
class LineJob(NetworkJob):
    """Measure error and loss on the line between the trained weights of two jobs, with both BatchNorm statistics."""

    name: ClassVar[str] = "line"
    folder: ClassVar[str] = "line"
    inputs: ClassVar[Mapping[str, str]] = {"one": "a trained network", "other": "another one of the same architecture"}

    line: LineOptions = LineOptions()

    def run(self, job: "JobContext") -> "Metrics":
        """Measure point after point; a stopped job continues with the next point."""
        from elth_dist.connectivity.barriers import barriers
        from elth_dist.connectivity.line import KINDS, LineMeter, Samples, interpolated
        from elth_dist.models.build import model_from
        from elth_dist.runtime.checkpoints import Checkpoints
        from elth_dist.runtime.seeds import derive_seed
        from elth_dist.runtime.states import load_state, save_state
        from elth_dist.tickets.weights import load_weights
        from elth_dist.training.loop import Stopped

        train, context = self.setting.train, job.training
        one, other = (load_weights(job.inputs[role].trained) for role in ("one", "other"))
        model = model_from(self.setting.model.arch, one, context.dataset.image_size)
        batches = self.line.train_batches
        samples = Samples(train.global_batch, batches, train.bn_batches, self.line.val_stride, train.eval_batch)
        alphas = [number / (self.line.alphas - 1) for number in range(self.line.alphas)]
        checkpoints = Checkpoints(job.folder.checkpoints, context.ranks)
        folder = checkpoints.newest()
        points: list[dict[str, list[float]]] = [] if folder is None else load_state(folder / "points.safetensors")
        meter = LineMeter(
            model,
            context.dataset,
            samples,
            seed=derive_seed(self.setting.seed, "line"),
            precision=train.precision,
            ranks=context.ranks,
            beat=context.watchdog.beat,
        )
        try:
            for alpha in alphas[len(points) :]:
                found = meter.measure(interpolated(one, other, alpha))
                points.append({kind: [1 - each.top1, each.loss] for kind, each in found.items()})
                if context.stop.poll():
                    checkpoints.save(
                        len(points),
                        lambda folder: save_state(folder / "points.safetensors", points) if job.is_main else None,
                    )
                    raise Stopped(job.name, len(points))
        finally:
            meter.close()
        line: dict[str, Any] = {"alphas": alphas}
        line |= {kind: {"error": [p[kind][0] for p in points], "loss": [p[kind][1] for p in points]} for kind in KINDS}
        heights = {kind: barriers(line[kind]["error"]) for kind in KINDS}
        height = {kind: heights[kind]["frankle"] for kind in ("val_running", "val_reestimated")}
        context.reporter.say(
            f"{job.name}: barrier {height['val_running']:.2%} with interpolated running statistics, "
            f"{height['val_reestimated']:.2%} with re-estimated ones"
        )
        return {"line": line, "barriers": heights, "arch": self.setting.model.arch}

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> None:
        """Predict nothing: it trains no network."""
