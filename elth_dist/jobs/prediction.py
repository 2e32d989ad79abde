"""Predict the cost of a run: each job of its graph reports its trainings and tickets to a forecast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from elth_dist.accounting.conventions import CONVENTIONS, Convention
from elth_dist.accounting.layers import Densities, Network, network
from elth_dist.data.options import DataOptions
from elth_dist.data.sampling import TrainPlan
from elth_dist.jobs.graph import Job
from elth_dist.jobs.setting import Setting
from elth_dist.models.build import blank_model
from elth_dist.models.families import architecture
from elth_dist.sparsity.masks import prunable_weights
from elth_dist.sparsity.updates import MaskUpdate
from elth_dist.sparsity.updates.base import step_cost
from elth_dist.tickets.elastic import source_keys
from elth_dist.tickets.options import TransferOptions
from elth_dist.tickets.ticket import Ticket


@dataclass(frozen=True)
class Prediction:
    """The predicted cost of a training, in FLOPs of the chosen convention."""

    arch: str
    density: float  # of the prunable weights
    start: int
    end: int  # steps of the schedule between which it runs
    samples: int
    forward: float  # of one sample
    dense_forward: float
    train: float  # of the whole job
    dense_train: float  # of one dense training of the same network, from step 0 to the end of the schedule
    warning: str | None = None  # about options of its mask update that hardly do anything


@dataclass(frozen=True)
class TicketForecast:
    """The properties of a ticket that are known before it exists."""

    arch: str
    densities: Densities  # of its layers; those without an entry are dense
    rewind_step: int
    num_classes: int
    image_size: int | None  # pixels; None: no weight's shape depends on it

    def density(self, name: str) -> float:
        """Return the density of a layer."""
        return self.densities.get(name, 1.0)


def predict(jobs: Sequence[Job], convention: Convention | None = None) -> dict[str, Prediction]:
    """Predict the cost of every job that trains, by name.

    Layer densities after pruning are unknown in advance: every layer is assumed to have the global density (layers of
    an external ticket file, their own). Transferred densities, numbers of steps and costs of dense trainings are exact.
    RigL's updates are assumed to continue to the end, as in its paper's formula. The gradients of SNIP, GraSP and
    SynFlow are not counted.

    Args:
        jobs: a method's jobs, inputs first (see methods.Method.plan).
        convention: how FLOPs are counted; None: `exact`.

    Raises:
        UserError: the dataset cannot be counted, or a ticket file cannot be read.
    """
    forecast = Forecast(CONVENTIONS["exact"] if convention is None else convention)
    tickets: dict[str, TicketForecast] = {}
    for job in jobs:
        inputs = {role: tickets[name] for role, name in job.inputs.items() if name in tickets}
        ticket = job.options.predict(job.name, inputs, forecast)
        if ticket is not None:
            tickets[job.name] = ticket
    return forecast.trainings


class Forecast:
    """Collects the trainings of a graph's jobs, and gives jobs the properties of networks and data."""

    def __init__(self, convention: Convention) -> None:
        """`convention`: how FLOPs are counted."""
        self.trainings: dict[str, Prediction] = {}
        self._convention = convention
        self._sizes: dict[DataOptions, tuple[int, int]] = {}

    def train(
        self,
        name: str,
        setting: Setting,
        ticket: TicketForecast,
        *,
        end: int | None = None,
        update: MaskUpdate | None = None,
    ) -> None:
        """Predict one training of the job `name`.

        Args:
            setting: of the training.
            ticket: the ticket that it starts from; under an update, with the final densities.
            end: the step up to which it trains; None: the end of the schedule, stretched by the update.
            update: the mask update; None: masks do not change.
        """
        per_epoch = self.steps_per_epoch(setting)
        total = setting.train.epochs * per_epoch
        counted, convention = self._network(ticket.arch, setting), self._convention
        forward, dense = convention.forward(counted, ticket.densities), convention.forward(counted)
        warning = None
        if update is None:
            end, cost = total if end is None else end, step_cost(forward, dense)
        else:
            end = total * update.multiplier if end is None else end
            said = update.stretched().warning(end, per_epoch)
            warning = None if said is None else f"{update.name}: {said}"
            cost = update.stretched().cost(
                forward, dense, total_steps=end, steps_per_epoch=per_epoch, convention=convention.name
            )
        samples = (end - ticket.rewind_step) * setting.train.global_batch
        self.trainings[name] = Prediction(
            arch=ticket.arch,
            density=counted.density(ticket.densities),
            start=ticket.rewind_step,
            end=end,
            samples=samples,
            forward=forward,
            dense_forward=dense,
            train=samples * cost,
            dense_train=total * setting.train.global_batch * step_cost(dense, dense),
            warning=warning,
        )

    def steps_per_epoch(self, setting: Setting) -> int:
        """Return the optimizer steps per epoch."""
        return TrainPlan(0, self._size(setting.data)[0], setting.train.global_batch).steps_per_epoch

    def density(self, ticket: TicketForecast, setting: Setting) -> float:
        """Compute a ticket's global density."""
        return self._network(ticket.arch, setting).density(ticket.densities)

    def shapes(self, ticket: TicketForecast) -> Mapping[str, Sequence[int]]:
        """Shapes of the prunable weights of a ticket's network, by name."""
        model = blank_model(ticket.arch, ticket.num_classes, ticket.image_size)
        weights = prunable_weights(model, architecture(ticket.arch).excluded)
        return {name: tuple(weight.shape) for name, weight in weights.items()}

    def names(self, arch: str) -> list[str]:
        """Names of a network's prunable weights."""
        return list(prunable_weights(blank_model(arch, 2), architecture(arch).excluded))

    def dense(self, setting: Setting, rewind_step: int = 0) -> TicketForecast:
        """Forecast the dense network of a setting."""
        data = setting.data
        return TicketForecast(setting.model.arch, {}, rewind_step, self._size(data)[1], data.image_size)

    def ticket_like(self, ticket: TicketForecast, densities: Densities) -> TicketForecast:
        """Forecast a ticket with other densities."""
        return replace(ticket, densities=densities)

    def starting_at(self, ticket: TicketForecast, step: int) -> TicketForecast:
        """Forecast a ticket whose training begins at another step."""
        return replace(ticket, rewind_step=step)

    def with_new_classifier(self, ticket: TicketForecast, setting: Setting) -> TicketForecast:
        """Forecast a ticket with a dense classifier for the classes of a setting's data."""
        dense = {architecture(ticket.arch).classifier: 1.0}
        classes = self._size(setting.data)[1]
        return replace(ticket, densities={**ticket.densities, **dense}, num_classes=classes)

    def read(self, path: str) -> TicketForecast:
        """Read the forecast of an external ticket file."""
        ticket = Ticket.load(Path(path))
        size = architecture(ticket.arch).image_size(ticket.weights)
        return TicketForecast(ticket.arch, ticket.masks.densities, ticket.meta.rewind_step, ticket.num_classes, size)

    def moved(self, ticket: TicketForecast, rules: TransferOptions) -> TicketForecast:
        """Forecast a ticket after a transfer: layer densities move with the units."""
        old, new = (blank_model(arch, 2).state_dict() for arch in (ticket.arch, rules.to))
        sources = source_keys(rules.plan_from(ticket.arch), old, new)
        densities = {name: ticket.density(sources[name]) for name in self.names(rules.to)}
        return replace(ticket, arch=rules.to, densities=densities)

    def _network(self, arch: str, setting: Setting) -> Network:
        return network(arch, setting.data.image_size, self._size(setting.data)[1])

    def _size(self, data: DataOptions) -> tuple[int, int]:
        if data not in self._sizes:
            self._sizes[data] = data.size()
        return self._sizes[data]
