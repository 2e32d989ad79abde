"""reinit: a ticket file's masks on a fresh initialisation."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist.errors import UserError
from elth_dist.jobs.controls.reinit import Reinit
from elth_dist.jobs.graph import Graph
from elth_dist.jobs.methods.base import Method
from elth_dist.jobs.setting import Setting
from elth_dist.registry import methods

if TYPE_CHECKING:
    from elth_dist.tickets.ticket import Ticket


@methods.add
class ReinitMethod(Method):
    """A ticket's masks on a fresh initialisation, trained as the ticket is."""

    trains_file: ClassVar[bool] = True

    name: Literal["reinit"] = "reinit"
    like: str = Field(description="ticket file")

    @property
    def ticket_file(self) -> str:
        return self.like

    def plan(self, graph: Graph, setting: Setting) -> None:
        Reinit().plan_file(graph, setting, self.like, {})

    def check_ticket(self, ticket: "Ticket", arch: str) -> None:
        if ticket.arch != arch:
            raise UserError(f"method.like: is a {ticket.arch} ticket, whose layers are not those of {arch!r}")
