"""reinit: the ticket's masks on a fresh initialisation (E-LTH, table 1)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from elth_dist.jobs.controls.base import Alteration
from elth_dist.registry import controls

if TYPE_CHECKING:
    from elth_dist.models.options import Init
    from elth_dist.tickets.ticket import Ticket


@controls.add
class Reinit(Alteration):
    """The ticket's masks on a fresh initialisation."""

    label: ClassVar[str] = "reinit"
    name: Literal["reinit"] = "reinit"

    def alter(self, ticket: "Ticket", seed: int, init: "Init") -> "Ticket":
        from elth_dist.tickets.controls import reinitialised

        return reinitialised(ticket, seed, init)
