"""The base of job kinds: options, work, predicted cost, and row in the report."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from elth_dist.jobs.setting import Setting
from elth_dist.options import Options

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows


class JobKind(Options):
    """One piece of work with a result folder. A subclass holds the options that determine its result, and its work."""

    #: Unique among job kinds.
    name: ClassVar[str]
    #: Its name in folders and identities; several kinds may share it.
    folder: ClassVar[str]
    #: Roles of other jobs' results as inputs, with a description of each.
    inputs: ClassVar[Mapping[str, str]] = {}
    #: Input roles that are only compared with: their cost is not part of this job's history.
    looked_at: ClassVar[tuple[str, ...]] = ()

    @property
    def network_setting(self) -> Setting | None:
        """The setting of the network that the job runs on data; None for a light job, which runs none."""
        return None

    @property
    def arch(self) -> str | None:
        """The job's network; None: the network of its input."""
        setting = self.network_setting
        return None if setting is None else setting.model.arch

    @property
    def file(self) -> str | None:
        """The external ticket file whose content determines the result; None: no file."""
        return None

    @property
    def imp_level(self) -> int | None:
        """The IMP level that the job trains; None: it trains no level."""
        return None

    def builds_on_file(self, inputs: Mapping[str, str]) -> bool:
        """Tell whether the job continues from `file`, so that its history is unknown. `inputs`: role -> job."""
        return False

    def part(self, files: Mapping[str, str]) -> dict[str, Any]:
        """Return the options that determine the result, as JSON values.

        `files`: content hash of each ticket file by its path: the content determines the result, not the path.
        """
        part = {"kind": self.folder, **self.identity()}
        if self.file is not None:
            part["path"] = files.get(self.file, self.file)
        return part

    def check_layers(self, names: Collection[str]) -> None:
        """Refuse options that name layers which the job's network does not have. UserError.

        `names`: of the network's prunable weights, in its order.
        """

    def end_step(self, steps_per_epoch: int) -> int | None:
        """Return the step at which the job's training ends; None: it trains nothing."""
        return None

    @abstractmethod
    def run(self, job: "JobContext") -> "Metrics":
        """Do the job and write its files to its folder. Collective; rank 0 writes.

        Returns:
            The metrics for result.json: JSON values by name.

        Raises:
            UserError: on all ranks; names the invalid input or option.
            Stopped: a signal stopped the job after its state was saved.
        """

    @abstractmethod
    def predict(
        self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast"
    ) -> "TicketForecast | None":
        """Report the job's trainings to the forecast, which predicts their cost.

        Args:
            name: of the job.
            inputs: the tickets of its inputs, by role.
            forecast: collects trainings; see Forecast.train.

        Returns:
            The forecast of the ticket that the job writes; None: it writes none.
        """

    def title(self, job: "Job", rows: "Rows") -> str | None:
        """Name what the job trained, for its row in the report; None: it has no row."""
        return None

    def ticket_title(self, job: "Job", rows: "Rows") -> str:
        """Name the ticket that the job writes, for the report's row of the job that trains it."""
        return "ticket"

    def in_usual_order(self) -> Self:
        """Return the options of the same training in the usual data order; others repeat it, as other seeds do."""
        return self

    def method_name(self, job: "Job", rows: "Rows") -> str:
        """Return the method of what the job trained, by which figures choose its colour: `imp`, `snip`, ..."""
        return self.name

    def ticket_method(self, job: "Job", rows: "Rows") -> str:
        """Return the method of the ticket that the job writes."""
        return self.name


def in_order(title: str, order: int) -> str:
    """Name a training in a data order of its own; 0 is the usual one."""
    return f"{title}, data order {order}" if order else title


class NetworkJob(JobKind):
    """Runs a network on data."""

    setting: Setting

    @property
    def network_setting(self) -> Setting:
        return self.setting
