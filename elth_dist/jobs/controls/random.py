"""random: the ticket's masks permuted within each layer (E-LTH, table 1)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from elth_dist.jobs.controls.base import Alteration
from elth_dist.registry import controls
from elth_dist.sparsity.criteria.base import Variant

if TYPE_CHECKING:
    from elth_dist.models.options import Init
    from elth_dist.tickets.ticket import Ticket


@controls.add
class RandomMasks(Alteration):
    """The ticket's masks permuted within each layer, on theta_r."""

    label: ClassVar[str] = "random masks"
    name: Literal["random"] = "random"
    variant: Variant = Field(
        default="published",
        description="elth_code: theta_r is first masked with the ticket, as in E-LTH's code, so that only weights in "
        "both masks start from a value other than zero",
    )

    @property
    def title(self) -> str:
        return self.label if self.variant == "published" else f"{self.label}, ELTH code"

    def alter(self, ticket: "Ticket", seed: int, init: "Init") -> "Ticket":
        from elth_dist.tickets.controls import random_masks

        return random_masks(ticket, seed, premasked=self.variant == "elth_code")
