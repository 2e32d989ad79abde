"""Every criterion as a method (prune at theta_r, then train), and every mask update (train under it)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Self, TypeVar

from pydantic import Field, model_validator

from elth_dist.errors import UserError
from elth_dist.jobs.controls.base import dynamic_job, pretrain_job, train_job
from elth_dist.jobs.graph import Graph
from elth_dist.jobs.kinds.prune import PruneJob
from elth_dist.jobs.methods.base import Method, Start
from elth_dist.jobs.setting import Setting
from elth_dist.options import Options, Step
from elth_dist.registry import OneOf, criteria, joined, methods, updates
from elth_dist.sparsity.criteria import Criterion
from elth_dist.sparsity.updates import MaskUpdate

if TYPE_CHECKING:
    from elth_dist.tickets.ticket import Ticket

_Part = TypeVar("_Part", bound=Options)


class AtDensity(Method):
    """A method with one density: a number, or the density of a ticket file."""

    density: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="kept fraction of the prunable weights, in (0, 1]; give either density or like"
    )
    like: str | None = Field(default=None, description="ticket file whose density is reached")

    @model_validator(mode="after")
    def _one_density(self) -> Self:
        if (self.density is None) == (self.like is None):
            raise ValueError("needs either density or like (a ticket file)")
        return self

    @property
    def ticket_file(self) -> str | None:
        return self.like


class PrunedMethod(AtDensity):
    """Prune a network at its rewinding weights, then train it (E-LTH, section 4: pruning at theta_r)."""

    rewind: Step = Field(default=Step.parse("1000it"), description="step at which the network is pruned")

    @property
    def criterion(self) -> Criterion:
        """The criterion to prune by."""
        kind: type[Criterion] = criteria[self.name]
        return _only(kind, self)

    def plan(self, graph: Graph, setting: Setting) -> None:
        theta_r = graph.add("pretrain", pretrain_job(setting, self.rewind))
        options = PruneJob(setting=setting, criterion=self.criterion, density=self.density, path=self.like)
        graph.add("train", train_job(setting), ticket=graph.add("mask", options, ticket=theta_r))

    def check_network(self, arch: str) -> None:
        if self.criterion.premasked and self.like is None:
            raise UserError("variant: elth_code masks theta_r with a ticket's masks: give `like`, a ticket file")

    def check_ticket(self, ticket: "Ticket", arch: str) -> None:
        if ticket.arch != arch and (self.criterion.matched == "layerwise" or self.criterion.premasked):
            raise UserError(f"method.like: is a {ticket.arch} ticket, whose layers are not those of {arch!r}")

    def start(self, steps_per_epoch: int) -> Start:
        return Start(f"method.rewind: {self.rewind}", self.rewind.iterations(steps_per_epoch))


class DynamicMethod(AtDensity):
    """Train one network from initialisation while its masks change."""

    @property
    def update(self) -> MaskUpdate:
        """The mask update."""
        kind: type[MaskUpdate] = updates[self.name]
        return _only(kind, self)

    def plan(self, graph: Graph, setting: Setting) -> None:
        graph.add("train", dynamic_job(setting, self.update, density=self.density, path=self.like))

    def mask_updates(self) -> Iterator[tuple[str, MaskUpdate]]:
        yield "method", self.update


def method_kinds() -> dict[str, type[Options]]:
    """List every method, by name."""
    pruned = {name: _combined(kind, PrunedMethod) for name, kind in criteria.items()}
    dynamic = {name: _combined(kind, DynamicMethod) for name, kind in updates.items()}
    return joined("method", methods, pruned, dynamic)


#: A field of any method.
AnyMethod = Annotated[Method, OneOf("method", method_kinds)]


_COMBINED: dict[type[Options], type[Options]] = {}


def _combined(kind: type[Options], how: type[AtDensity]) -> type[Options]:
    """Combine the options of a kind with the options of a method with one density."""
    if kind not in _COMBINED:
        members = {"__doc__": kind.__doc__, "__module__": kind.__module__}
        _COMBINED[kind] = type(f"{kind.__name__}Method", (kind, how), members)
    return _COMBINED[kind]


def _only(kind: type[_Part], whole: Options) -> _Part:
    """Extract the options of `kind` from those of a class derived from it."""
    return kind(**{name: getattr(whole, name) for name in kind.model_fields})
