"""What all trainings of a run share."""

from dataclasses import dataclass

from elth_dist.data.protocol import Dataset
from elth_dist.reporting.reporter import Reporter
from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.signals import StopSignals
from elth_dist.runtime.watchdog import Watchdog


@dataclass(frozen=True)
class Context:
    """The environment of a training: ranks, dataset, reporter, stop signals and watchdog."""

    ranks: Ranks
    dataset: Dataset
    reporter: Reporter
    stop: StopSignals
    watchdog: Watchdog
