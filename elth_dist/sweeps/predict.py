"""What a sweep will cost, before it runs: FLOPs and GPU-hours of each job, and what sharing saves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from elth_dist.jobs.prediction import predict
from elth_dist.sweeps.plan import Sweep, SweepJob


@dataclass(frozen=True)
class Cost:
    """What a job costs; None where nothing is known to predict it from."""

    flops: float | None  # of training, 2 a multiply-add
    gpu_hours: float | None

    @staticmethod
    def total(costs: Iterable["Cost"]) -> "Cost":
        """The sum; None as soon as one is."""
        found = list(costs)
        flops, hours = [cost.flops for cost in found], [cost.gpu_hours for cost in found]
        return Cost(
            None if None in flops else sum(flop for flop in flops if flop is not None),
            None if None in hours else sum(hour for hour in hours if hour is not None),
        )


class Predictor:
    """Costs of a sweep's jobs. UserError where the dataset cannot be counted."""

    def __init__(self, sweep: Sweep, measured: Mapping[str, Mapping[str, Any]], speeds: Mapping[str, float]) -> None:
        """
        Args:
            sweep: the plan.
            measured: metrics of finished jobs by name.
            speeds: images/s of one GPU by network.
        """
        self._sweep, self._measured, self._speeds = sweep, measured, speeds
        self._predicted = predict([job.job for job in sweep.jobs.values()])

    def cost(self, name: str) -> Cost:
        """Of one job, without its inputs. FLOPs of finished ones are counted from their masks; see jobs.prediction."""
        job, predicted = self._sweep.jobs[name], self._predicted.get(name)
        if not job.job.options.trains:
            return Cost(0.0, 0.0)
        flops = self._measured.get(name, {}).get("train_flops")
        if predicted is None:
            samples = self._measured.get(name, {}).get("samples")
            arch = job.config.model.arch
        else:
            flops = predicted.train if flops is None else flops
            samples, arch = predicted.samples, predicted.arch
        speed = self._speeds.get(arch)
        return Cost(flops, None if speed is None or samples is None else samples / speed / 3600)

    def alone(self) -> Cost:
        """Of all final jobs, if each were run on its own with all that it needs."""
        return Cost.total(self.cost(name) for final in self._sweep.finals for name in self._sweep.with_inputs(final))


def describe(job: SweepJob) -> str:
    """What a job is, for people: its name in a run and the network that it works on."""
    arch = job.job.options.arch or job.config.model.arch
    return job.label if arch.replace("/", "-") in job.label else f"{job.label} ({arch})"


def seeds_of(job: SweepJob) -> str:
    """The seeds that a job depends on."""
    setting = job.job.options.network_setting or job.config.setting
    return f"{setting.seed}" if setting.data_seed is None else f"{setting.seed}/{setting.data_seed}"
