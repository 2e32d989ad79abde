"""The base of controls: experiments that a ticket is compared with."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from elth_dist.jobs.graph import Graph
from elth_dist.jobs.kinds.dense import DenseJob
from elth_dist.jobs.kinds.dynamic import DynamicJob
from elth_dist.jobs.kinds.imp import PretrainJob
from elth_dist.jobs.kinds.prune import PruneJob
from elth_dist.jobs.kinds.train import TrainJob
from elth_dist.jobs.setting import Setting
from elth_dist.options import Options, Step
from elth_dist.registry import OneOf, controls, criteria, joined, updates
from elth_dist.sparsity.criteria import Criterion
from elth_dist.sparsity.updates import MaskUpdate

if TYPE_CHECKING:
    from elth_dist.models.options import Init
    from elth_dist.tickets.ticket import Ticket


@dataclass(frozen=True)
class Place:
    """What a control is planned for: the ticket of the job `ticket`, on the network that `setting` trains."""

    name: str
    setting: Setting
    ticket: str
    rewind: Step
    theta_r: str  # name of the job that trains the network to the rewind step


class Control(Options):
    """An experiment to compare a ticket with. A subclass has a field `name` with its default, `label` and `plan`."""

    #: Its name in tables and figures.
    label: ClassVar[str]
    #: Whether it changes what a transfer copied, so that only transferred tickets have it.
    of_copies: ClassVar[bool] = False
    #: Whether the method `ticket` offers it for a ticket file.
    of_files: ClassVar[bool] = False

    name: str = Field(description="the control")

    @property
    def title(self) -> str:
        """The control with its options, for tables."""
        return self.label

    @abstractmethod
    def plan(self, graph: Graph, place: Place) -> str | None:
        """Add the control's jobs; return the name of the one that trains a ticket, if there is one."""

    def plan_file(self, graph: Graph, setting: Setting, path: str | None, inputs: Mapping[str, str]) -> None:
        """Add the control's jobs for a ticket file, or, if `path` is None, for the ticket of `inputs["ticket"]`."""
        raise AssertionError(f"{self.name} is not a control of a ticket file")


class Alteration(Control):
    """A control that trains a changed ticket."""

    of_files: ClassVar[bool] = True

    @abstractmethod
    def alter(self, ticket: "Ticket", seed: int, init: "Init") -> "Ticket":
        """Return the changed ticket.

        Args:
            ticket: not changed.
            seed: of all randomness.
            init: draws a fresh initialisation.
        """

    def plan(self, graph: Graph, place: Place) -> str:
        return graph.add(f"{self.name}-{place.name}", train_job(place.setting, control=self), ticket=place.ticket)

    def plan_file(self, graph: Graph, setting: Setting, path: str | None, inputs: Mapping[str, str]) -> None:
        graph.add("train", train_job(setting, control=self, path=path), **inputs)


def control_kinds() -> dict[str, type[Options]]:
    """Everything that can stand next to a ticket: controls, criteria (pruning at theta_r), and mask updates."""
    return joined("control", controls, {name: kind for name, kind in criteria.items() if kind.as_control}, updates)


#: A field of any control.
AnyControl = Annotated[Control | Criterion | MaskUpdate, OneOf("control", control_kinds)]


def plan_control(graph: Graph, control: AnyControl, place: Place) -> str | None:
    """Add the jobs of a control, after those they need; return the name of the one that trains a ticket, if any."""
    setting = place.setting
    if isinstance(control, Control):
        return control.plan(graph, place)
    if isinstance(control, MaskUpdate):
        longer = "" if control.multiplier == 1 else f"-{control.multiplier}x"
        graph.add(f"{control.name}{longer}-{place.name}", dynamic_job(setting, control), like=place.ticket)
        return None
    theta_r = graph.add(place.theta_r, pretrain_job(setting, place.rewind))
    options = PruneJob(setting=setting, criterion=control)
    name = f"{control.name}-{place.name}"
    mask = graph.add(f"mask-{name}", options, ticket=theta_r, like=place.ticket)
    return graph.add(name, train_job(setting), ticket=mask)


def is_of_copies(control: AnyControl) -> bool:
    """Tell whether a control changes what a transfer copied."""
    return isinstance(control, Control) and control.of_copies


def pretrain_job(setting: Setting, rewind: Step) -> PretrainJob:
    """Make the job that trains to theta_r, which is the same for all later data orders."""
    return PretrainJob(setting=setting.model_copy(update={"data_seed": None}), rewind=rewind)


def train_job(setting: Setting, *, control: Alteration | None = None, path: str | None = None) -> TrainJob:
    """Train a ticket to the end."""
    return TrainJob(setting=setting, data_order="train", control=control, path=path)


def dynamic_job(
    setting: Setting, update: MaskUpdate, *, density: float | None = None, path: str | None = None
) -> DynamicJob:
    """Make the job that trains under a mask update from initialisation, in the data order of dense training."""
    return DynamicJob(setting=setting, data_order="pretrain", update=update, density=density, path=path)


def add_dense(graph: Graph, setting: Setting) -> str:
    """Add one uninterrupted dense training."""
    return graph.add(f"dense-{setting.model.arch}", DenseJob(setting=setting, data_order="pretrain"))
