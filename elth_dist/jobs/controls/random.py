"""random: the ticket's masks permuted within each layer (E-LTH, table 1)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from elth_dist.jobs.controls.base import Alteration
from elth_dist.registry import controls

if TYPE_CHECKING:
    from elth_dist.models.options import Init
    from elth_dist.tickets.ticket import Ticket


@controls.add
class RandomMasks(Alteration):
    """The ticket's masks permuted within each layer, on theta_r."""

    label: ClassVar[str] = "random masks"
    name: Literal["random"] = "random"

    def alter(self, ticket: "Ticket", seed: int, init: "Init") -> "Ticket":
        from elth_dist.tickets.controls import random_masks

        return random_masks(ticket, seed)
