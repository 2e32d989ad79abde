"""shuffled_copies: permuted masks in what a transfer copied (E-LTH, figure 4)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from elth_dist.jobs.controls.base import Alteration
from elth_dist.registry import controls

if TYPE_CHECKING:
    from elth_dist.models.options import Init
    from elth_dist.tickets.ticket import Ticket


@controls.add
class ShuffledCopies(Alteration):
    """The masks of a transfer's copies permuted within each layer."""

    label: ClassVar[str] = "shuffled copies"
    of_copies: ClassVar[bool] = True
    name: Literal["shuffled_copies"] = "shuffled_copies"

    def alter(self, ticket: "Ticket", seed: int, init: "Init") -> "Ticket":
        from elth_dist.tickets.controls import shuffled_copies

        return shuffled_copies(ticket, seed)
