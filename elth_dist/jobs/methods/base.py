"""The base of methods: options, the graph of jobs that they plan, and checks before the start."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from elth_dist.errors import UserError
from elth_dist.jobs.graph import Graph
from elth_dist.jobs.setting import Setting
from elth_dist.options import Options
from elth_dist.sparsity.updates import MaskUpdate

if TYPE_CHECKING:
    from elth_dist.tickets.ticket import Ticket


class Start(NamedTuple):
    """The step of the schedule at which a method's trainings begin."""

    where: str  # the option that sets the step, for people
    step: int


class Method(Options):
    """What a run does. A subclass has a method's options: a field `name` with its default, more fields, and `plan`."""

    #: Whether the ticket file is trained, from its own rewind step unless `start` says otherwise.
    trains_file: ClassVar[bool] = False

    if TYPE_CHECKING:
        name: str

    @abstractmethod
    def plan(self, graph: Graph, setting: Setting) -> None:
        """Add the method's jobs, each after those it needs."""

    @property
    def ticket_file(self) -> str | None:
        """The external ticket file that the method names; None: no file."""
        return None

    def check_network(self, arch: str) -> None:
        """Refuse a network that the method cannot use; the UserError begins with an option's name below `method`."""

    def check_ticket(self, ticket: "Ticket", arch: str) -> None:
        """Refuse a ticket file that does not fit the method or the network. UserError."""

    def check_classes(self, ticket: "Ticket", num_classes: int) -> None:
        """Refuse a ticket file that is trained but has other classes than the dataset. UserError."""
        if self.trains_file and ticket.num_classes != num_classes:
            raise UserError(
                f"{self.ticket_file}: the ticket has {ticket.num_classes} classes, the dataset {num_classes}"
            )

    def start(self, steps_per_epoch: int) -> Start | None:
        """Return where trainings begin by the method's options; None: at step 0, or at a ticket's rewind step."""
        return None

    def mask_updates(self) -> Iterator[tuple[str, MaskUpdate]]:
        """Yield every mask update of the method's trainings, with the option that names it."""
        yield from ()

    def check_length(self, epochs: int, steps_per_epoch: int, ticket: "Ticket | None") -> None:
        """Refuse a training that is too short for the method. UserError.

        Args:
            epochs: `train.epochs`.
            steps_per_epoch: optimizer steps per epoch.
            ticket: the ticket file, if it is known.
        """
        start = self.start(steps_per_epoch)
        if start is None and ticket is not None and self.trains_file:
            start = Start("the ticket's rewind step", ticket.meta.rewind_step)
        total = epochs * steps_per_epoch
        if start is not None and start.step >= total:
            raise UserError(
                f"{start.where} is step {start.step}, but train.epochs {epochs} makes {total} steps "
                f"({steps_per_epoch} per epoch): nothing would be left to train"
            )
        for option, update in self.mask_updates():
            try:
                update.check(total, steps_per_epoch)
            except UserError as error:
                raise UserError(f"{option}: {error}") from None
