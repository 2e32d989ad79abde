"""ticket: train a ticket from a file."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from elth_dist.errors import UserError
from elth_dist.jobs.controls import Control
from elth_dist.jobs.controls.base import train_job
from elth_dist.jobs.graph import Graph
from elth_dist.jobs.kinds.adapt import AdaptJob
from elth_dist.jobs.kinds.transfer import TransferJob
from elth_dist.jobs.methods.base import Method, Start
from elth_dist.jobs.setting import Setting
from elth_dist.options import Step
from elth_dist.registry import controls, methods
from elth_dist.tickets.options import TransferOptions

if TYPE_CHECKING:
    from elth_dist.tickets.ticket import Ticket


def _of_files(name: str) -> str:
    valid = [known for known, kind in controls.items() if kind.of_files]
    if name not in valid:
        raise ValueError(f"{name!r} is not a control of a ticket file; valid are {', '.join(valid)}")
    return name


@methods.add
class TicketMethod(Method):
    """Train a ticket from a file: unchanged, transferred to another network, or as a control."""

    trains_file: ClassVar[bool] = True

    name: Literal["ticket"] = "ticket"
    path: str = Field(description="ticket file")
    transfer: TransferOptions | None = Field(
        default=None, description="elastic transfer to another depth before the training; null: none"
    )
    control: Annotated[str, AfterValidator(_of_files)] | None = Field(
        default=None,
        description="null: the ticket itself; random: masks permuted within each layer; reinit: the masks on a fresh "
        "initialisation; random_reinit: both; in a transfer's copies, shuffled_copies: masks permuted, snip_copies: "
        "SNIP's masks",
    )

    classifier: Literal["keep", "new"] = Field(
        default="keep",
        description="new: replace the ticket's classifier by a fresh, dense one for the dataset's classes (E-LTH, "
        "tables 6 and 7); keep: the dataset must have as many classes as the ticket",
    )
    begin: Step | None = Field(
        default=None,
        description="step of the schedule at which the training begins: 0 for the whole schedule; null: the ticket's "
        "rewind step",
    )

    @property
    def ticket_file(self) -> str:
        return self.path

    def plan(self, graph: Graph, setting: Setting) -> None:
        path: str | None = self.path
        inputs = {}
        if self.transfer is not None:
            inputs["ticket"] = graph.add("transfer", TransferJob(transfer=self.transfer, path=path))
            path = None
        if self.classifier == "new" or self.begin is not None:
            adapted = AdaptJob(
                setting=setting.model_copy(update={"data_seed": None}),
                classifier=self.classifier,
                begin=self.begin,
                path=path,
            )
            inputs["ticket"] = graph.add("adapt", adapted, **inputs)
            path = None
        if self.control is None:
            graph.add("train", train_job(setting, path=path), **inputs)
        else:
            control: Control = controls[self.control]()
            control.plan_file(graph, setting, path, inputs)

    def check_ticket(self, ticket: "Ticket", arch: str) -> None:
        plan = None if self.transfer is None else self.transfer.plan_from(ticket.arch)
        trained = ticket.arch if plan is None else plan.target
        if trained != arch:
            raise UserError(f"model.arch: is {arch!r}, but method.path and method.transfer make a {trained}")
        plan = plan or ticket.meta.plan
        if self.control is not None and controls[self.control].of_copies and (plan is None or not any(plan.copies)):
            raise UserError(f"method.control: {self.control}, but no unit of the {trained} is a transfer's copy")

    def check_classes(self, ticket: "Ticket", num_classes: int) -> None:
        if self.classifier == "keep" and ticket.num_classes != num_classes:
            raise UserError(
                f"{self.path}: the ticket has {ticket.num_classes} classes, the dataset {num_classes}; "
                "`--method.classifier new` replaces the ticket's classifier"
            )

    def start(self, steps_per_epoch: int) -> Start | None:
        if self.begin is None:
            return None
        return Start(f"method.begin: {self.begin}", self.begin.iterations(steps_per_epoch))
