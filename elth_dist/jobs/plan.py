"""Plan the jobs of a method under a setting, and check them before any process waits for another."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from elth_dist.data.sampling import TrainPlan
from elth_dist.jobs.graph import Graph, Job
from elth_dist.jobs.methods import Method
from elth_dist.jobs.setting import Setting

if TYPE_CHECKING:
    from elth_dist.tickets.ticket import Ticket


@dataclass(frozen=True)
class Plan:
    """The planned jobs of a run."""

    method: Method
    setting: Setting
    jobs: list[Job]  # each after those it needs
    ticket: "Ticket | None" = None  # the file that the method names

    def on(self, setting: Setting) -> "Plan":
        """Plan the same method under another setting."""
        return _plan(self.method, setting, self.ticket)

    @property
    def groups(self) -> dict[str, str]:
        """For each job, by name, a hash that is equal for jobs that differ in seeds or data orders alone."""
        seedless = self.on(self.setting.model_copy(update={"seed": 0, "data_seed": None})).jobs

        def first(job: Job) -> Job:
            usual = job.options.in_usual_order()
            alike = (other for other in seedless if (other.options, other.inputs) == (usual, job.inputs))
            return job if usual == job.options else next(alike, job)

        return {job.name: first(job).identity for job in seedless}

    def check_size(self, num_train: int, rank: int = 0, world_size: int = 1) -> None:
        """Refuse `num_train` samples that do not make the steps that the training needs. UserError."""
        check_size(self.method, self.setting, num_train, self.ticket, rank, world_size)


def make_plan(method: Method, setting: Setting) -> Plan:
    """Plan the jobs of a method.

    Raises:
        UserError: the ticket file that the method names is not a ticket, or does not fit.
    """
    ticket = None
    if method.ticket_file is not None:
        from elth_dist.tickets.ticket import Ticket

        ticket = Ticket.load(method.ticket_file)
        method.check_ticket(ticket, setting.model.arch)
    return _plan(method, setting, ticket)


def _plan(method: Method, setting: Setting, ticket: "Ticket | None") -> Plan:
    path = method.ticket_file
    graph = Graph({} if path is None or ticket is None else {path: ticket.hash})
    method.plan(graph, setting)
    return Plan(method, setting, graph.jobs, ticket)


def check(method: Method, setting: Setting, rank: int, world_size: int, *, elsewhere: bool = False) -> None:
    """Check options before any process waits for another and before anything is written. UserError.

    `elsewhere`: the ranks will run on other machines, which may see other files and packages.
    """
    train, engine = setting.train, setting.engine
    engine.check(
        global_batch=train.global_batch,
        accumulate=train.accumulate,
        world_size=world_size,
        precision=train.precision,
        compile_model=train.compile,
    )
    setting.data.check(elsewhere=elsewhere)
    known = setting.data.known_size()
    if known is not None:
        check_size(method, setting, known[0], None, rank, world_size)
    else:  # the rest once the dataset is counted
        TrainPlan(0, train.global_batch, train.global_batch, train.accumulate, rank, world_size)


def check_size(
    method: Method, setting: Setting, num_train: int, ticket: "Ticket | None", rank: int, world_size: int
) -> None:
    """UserError unless `num_train` samples make the steps that the method needs."""
    train = setting.train
    steps = TrainPlan(0, num_train, train.global_batch, train.accumulate, rank, world_size).steps_per_epoch
    method.check_length(train.epochs, steps, ticket)
