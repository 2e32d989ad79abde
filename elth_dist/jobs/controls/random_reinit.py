"""random_reinit: permuted masks on a fresh initialisation (E-LTH, figure 3)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from elth_dist.jobs.controls.base import Alteration
from elth_dist.registry import controls

if TYPE_CHECKING:
    from elth_dist.models.options import Init
    from elth_dist.tickets.ticket import Ticket


@controls.add
class RandomReinit(Alteration):
    """The ticket's masks permuted within each layer, on a fresh initialisation."""

    label: ClassVar[str] = "random masks, reinit"
    name: Literal["random_reinit"] = "random_reinit"

    def alter(self, ticket: "Ticket", seed: int, init: "Init") -> "Ticket":
        from elth_dist.tickets.controls import random_masks, reinitialised

        return reinitialised(random_masks(ticket, seed), seed, init)
