"""What a kind of job is: its options, its work, what it costs, and its row in the report."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from elth_dist.jobs.setting import Setting
from elth_dist.options import Options

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows


class JobKind(Options):
    """One piece of work with a result folder. A subclass is the options that determine its result, and what it does."""

    #: Unique among job kinds.
    name: ClassVar[str]
    #: What folders and identities call it; several kinds may share it.
    folder: ClassVar[str]
    #: Roles that other jobs' results play, with what each is.
    inputs: ClassVar[Mapping[str, str]] = {}
    #: Roles that are looked at but not built upon: what they cost is not part of this job's history.
    looked_at: ClassVar[tuple[str, ...]] = ()
    #: Whether it trains a network.
    trains: ClassVar[bool] = False

    @property
    def network_setting(self) -> Setting | None:
        """The setting of the network that the job runs on data; None for a light job, which runs none."""
        return None

    @property
    def arch(self) -> str | None:
        """The network that the job works on; None: its input's."""
        setting = self.network_setting
        return None if setting is None else setting.model.arch

    @property
    def file(self) -> str | None:
        """A ticket file from elsewhere whose content determines the result."""
        return None

    @property
    def imp_level(self) -> int | None:
        """The level of IMP that the job trains; None: it is no level."""
        return None

    def builds_on_file(self, inputs: Mapping[str, str]) -> bool:
        """Whether the job continues from `file`, so that its history is not known. `inputs`: role -> job."""
        return False

    def part(self, files: Mapping[str, str]) -> dict[str, Any]:
        """The options that determine the result, as JSON values.

        `files`: content hash of each ticket file by its path, since its content decides, not its name.
        """
        part = {"kind": self.folder, **self.identity()}
        if self.file is not None:
            part["path"] = files.get(self.file, self.file)
        return part

    def end_step(self, steps_per_epoch: int) -> int | None:
        """The step at which its training ends; None: it trains nothing."""
        return None

    @abstractmethod
    def run(self, job: "JobContext") -> "Metrics":
        """Do the job; leave its files in its folder. Collective; rank 0 writes.

        Returns:
            What result.json says about the result: JSON values by name.

        Raises:
            UserError: on all ranks; naming what is wrong with an input or an option.
            Stopped: a signal asked for the end, and the state is safe.
        """

    @abstractmethod
    def predict(
        self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast"
    ) -> "TicketForecast | None":
        """Tell the forecast what the job will cost.

        Args:
            name: of the job.
            inputs: the tickets of its inputs, by role.
            forecast: takes the trainings; see Forecast.train.

        Returns:
            What is known of the ticket that the job leaves; None: it leaves none.
        """

    def title(self, job: "Job", rows: "Rows") -> str | None:
        """What the job trained, for its row in the report; None: it has no row."""
        return None

    def ticket_title(self, job: "Job", rows: "Rows") -> str:
        """What the report calls the ticket that the job leaves, where another job trains it."""
        return "ticket"


class NetworkJob(JobKind):
    """Runs a network on data."""

    setting: Setting

    @property
    def network_setting(self) -> Setting:
        return self.setting
