"""Predict the cost of a sweep: FLOPs and GPU-hours of each job, and the savings by sharing jobs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from elth_dist.jobs.prediction import predict
from elth_dist.sweeps.plan import Sweep, SweepJob


@dataclass(frozen=True)
class Cost:
    """The cost of a job; None where there is nothing to predict it from."""

    flops: float | None  # of training, 2 per multiply-accumulate
    gpu_hours: float | None

    @staticmethod
    def total(costs: Iterable["Cost"]) -> "Cost":
        """Add up costs; None if any is None."""
        terms = list(costs)
        flops, hours = [cost.flops for cost in terms], [cost.gpu_hours for cost in terms]
        return Cost(
            None if None in flops else sum(flop for flop in flops if flop is not None),
            None if None in hours else sum(hour for hour in hours if hour is not None),
        )


class Predictor:
    """Predicts the costs of a sweep's jobs. UserError if the dataset cannot be counted."""

    def __init__(self, sweep: Sweep, measured: Mapping[str, Mapping[str, Any]], speeds: Mapping[str, float]) -> None:
        """
        Args:
            sweep: the plan.
            measured: metrics of finished jobs by name.
            speeds: images per second of one GPU by network.
        """
        self._sweep, self._measured, self._speeds = sweep, measured, speeds
        self._predicted = predict([job.job for job in sweep.jobs.values()])

    def cost(self, name: str) -> Cost:
        """Predict one job without its inputs. FLOPs of finished jobs are counted from masks; see jobs.prediction."""
        predicted = self._predicted.get(name)
        if predicted is None:  # it trains nothing, as does the training to the rewind step 0
            return Cost(0.0, 0.0)
        flops = self._measured.get(name, {}).get("train_flops", predicted.train)
        speed = self._speeds.get(predicted.arch)
        return Cost(flops, None if speed is None else predicted.samples / speed / 3600)

    def warnings(self) -> dict[str, str]:
        """Return what a mask update's options hardly do, by job."""
        return {name: job.warning for name, job in self._predicted.items() if job.warning is not None}

    def alone(self) -> Cost:
        """Predict all final jobs as if each ran alone with all jobs that it needs."""
        return Cost.total(self.cost(name) for final in self._sweep.finals for name in self._sweep.with_inputs(final))


def describe(job: SweepJob) -> str:
    """Describe a job for people: its name in a run and its network."""
    arch = job.job.options.arch or job.config.model.arch
    return job.label if arch.replace("/", "-") in job.label else f"{job.label} ({arch})"


def seeds_of(job: SweepJob) -> str:
    """Format the seeds that a job depends on."""
    setting = job.job.options.network_setting or job.config.setting
    return f"{setting.seed}" if setting.data_seed is None else f"{setting.seed}/{setting.data_seed}"
