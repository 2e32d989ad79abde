"""What every training of a run shares with the others."""

from dataclasses import dataclass

from elth_dist.data.protocol import Dataset
from elth_dist.reporting.reporter import Reporter
from elth_dist.runtime.ranks import Ranks
from elth_dist.runtime.signals import StopSignals
from elth_dist.runtime.watchdog import Watchdog


@dataclass(frozen=True)
class Context:
    """The surroundings of a training: other ranks, the data, what the user sees, and what may interrupt it."""

    ranks: Ranks
    dataset: Dataset
    reporter: Reporter
    stop: StopSignals
    watchdog: Watchdog
