"""How a config asks for an elastic transformation."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from elth_dist.models.options import ArchName
from elth_dist.options import Options
from elth_dist.tickets.plans import Order, Squeeze, TransferPlan, plan_transfer

_Unit = Annotated[int, Field(ge=0)]


class TransferOptions(Options):
    """To which network a ticket is transferred, and which of its units go where."""

    to: ArchName = Field(description="target network, of the ticket's family")
    order: Order = Field(
        default="interpolate",
        description="how stages grow: interpolate: each copy follows its unit; append: copies follow as whole runs",
    )
    squeeze: Squeeze = Field(
        default="first", description="which units shrinking stages keep: first, last, or strided (evenly spaced)"
    )
    units: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None,
        min_length=1,
        description="units of growing stages that are copied, by number (0 is invariant); null: all",
    )
    plan: str | tuple[tuple[_Unit, ...], ...] | None = Field(
        default=None,
        description="the plan itself, in place of these rules: for each stage the source unit of every target unit, or "
        "as text: '0:0;1:1,2' (source:targets, '|' between stages); one stage stands for all of a CIFAR ResNet",
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
