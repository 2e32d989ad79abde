"""How a config asks for an elastic transformation."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from elth_dist.models.options import ArchName
from elth_dist.options import Options
from elth_dist.tickets.plans import Order, Squeeze, TransferPlan, plan_transfer

_Unit = Annotated[int, Field(ge=0)]


class TransferOptions(Options):
    """To which network a ticket is transferred, and which of its units go where."""

    to: ArchName = Field(description="the target network, of the ticket's family")
    order: Order = Field(
        default="interpolate", description="how stages grow: 'interpolate' copies in place, 'append' whole runs again"
    )
    squeeze: Squeeze = Field(
        default="first", description="which units shrinking stages keep: the 'first', the 'last', or 'strided'"
    )
    units: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1, description="copy only these units of growing stages; 0 is invariant; default all"
    )
    plan: str | tuple[tuple[_Unit, ...], ...] | None = Field(
        default=None,
        description="the whole plan instead: for each stage the source unit of every target unit, or the text form "
        "'0:0;1:1,2' (source:targets, '|' between stages); one stage stands for all of a CIFAR ResNet",
    )

    @model_validator(mode="after")
    def _either_rules_or_plan(self) -> Self:
        fields = type(self).model_fields
        also = [name for name in ("order", "squeeze", "units") if getattr(self, name) != fields[name].default]
        if self.plan is not None and also:
            raise ValueError(f"plan already says everything; leave out {', '.join(also)}")
        return self

    def plan_from(self, source: str) -> TransferPlan:
        """The plan for a ticket of the architecture `source`. UserError where there is none."""
        return plan_transfer(source, self.to, order=self.order, squeeze=self.squeeze, units=self.units, plan=self.plan)
