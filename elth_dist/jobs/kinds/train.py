"""train: a ticket, or a control made of one, to the end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import Field

from elth_dist.jobs.kinds.base import NetworkJob, in_order
from elth_dist.options import Options
from elth_dist.registry import OneOf, controls, job_kinds

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.controls import Alteration
    from elth_dist.jobs.graph import Job
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows


@job_kinds.add
class TrainJob(NetworkJob):
    """Train the ticket of the input or of the file `path`, or a control made of it, to the end."""

    name: ClassVar[str] = "train"
    folder: ClassVar[str] = "train"
    inputs: ClassVar[Mapping[str, str]] = {"ticket": "what is trained, or what the control is made of"}

    data_order: str
    order: int = Field(default=0, description="number of the data order, among those of the same ticket")
    control: Annotated[Options, OneOf("control", lambda: controls)] | None = Field(
        default=None, description="how the ticket is changed first: a jobs.controls.Alteration; null: not at all"
    )
    path: str | None = None

    @property
    def file(self) -> str | None:
        return self.path

    def part(self, files: Mapping[str, str]) -> dict[str, Any]:
        part = super().part(files)
        if part.get("control", {}).keys() == {"name"}:  # as version 0.1.0 wrote it
            part["control"] = part["control"]["name"]
        return part

    @property
    def alteration(self) -> "Alteration | None":
        """How the ticket is changed before it is trained."""
        return cast("Alteration | None", self.control)

    def builds_on_file(self, inputs: Mapping[str, str]) -> bool:
        return self.path is not None

    def end_step(self, steps_per_epoch: int) -> int:
        return self.setting.train.epochs * steps_per_epoch

    def run(self, job: "JobContext") -> "Metrics":
        """Write the trained weights, and the ticket from which they were trained."""
        from elth_dist.jobs.training import load_ticket, train_ticket
        from elth_dist.runtime.seeds import derive_seed

        setting, ticket = self.setting, load_ticket(self.path, job)
        what = f"{ticket.arch} ticket"
        if self.alteration is not None:
            seed = derive_seed(setting.seed, self.alteration.name, ticket.hash)
            ticket = self.alteration.alter(ticket, seed, setting.model.init)
            what = f"{self.alteration.label} of {ticket.arch}"
        title = in_order(f"{what}, density {ticket.density:.2%}", self.order)
        return train_ticket(job, setting, ticket, data_order=self.data_order, title=title, order=self.order)

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> None:
        forecast.train(name, self.setting, inputs["ticket"] if self.path is None else forecast.read(self.path))

    def title(self, job: "Job", rows: "Rows") -> str:
        ticket = rows.ticket_title(job.inputs["ticket"]) if "ticket" in job.inputs else "ticket"
        return ticket if self.alteration is None else f"{self.alteration.title} ({ticket})"

    def in_usual_order(self) -> Self:
        return self.model_copy(update={"order": 0})

    def method_name(self, job: "Job", rows: "Rows") -> str:
        if self.alteration is not None:
            return self.alteration.name
        return rows.ticket_method(job.inputs["ticket"]) if "ticket" in job.inputs else "ticket"
