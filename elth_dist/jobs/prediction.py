"""What a run will cost, before it starts: the graph of jobs walked without training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elth_dist.accounting.conventions import CONVENTIONS, Convention
from elth_dist.accounting.layers import Densities, Network, network
from elth_dist.accounting.methods import MethodName, Ramp, step_cost, training_cost
from elth_dist.data.options import DataOptions
from elth_dist.data.sampling import TrainPlan
from elth_dist.jobs.graph import Job
from elth_dist.jobs.options import (
    DynamicJob,
    LevelJob,
    MaskJob,
    PretrainJob,
    PruneJob,
    Setting,
    TrainJob,
    TransferJob,
)
from elth_dist.models.build import blank_model
from elth_dist.sparsity.distributions import DISTRIBUTIONS
from elth_dist.sparsity.updates.options import Dpf, Gradual
from elth_dist.tickets.elastic import source_keys
from elth_dist.tickets.ticket import Ticket


@dataclass(frozen=True)
class Prediction:
    """What a training will cost, in FLOPs of the convention that it was predicted with."""

    arch: str
    density: float  # of the prunable weights
    start: int
    end: int  # steps of the schedule between which it runs
    samples: int
    forward: float  # of one sample
    dense_forward: float
    train: float  # of the whole job
    dense_train: float  # of one dense training of the same network, from step 0 to the end of the schedule


@dataclass(frozen=True)
class _Ticket:
    """What is known of a ticket before it exists."""

    arch: str
    densities: Densities
    rewind_step: int


@dataclass
class _Walk:
    """A walk over a graph."""

    convention: Convention
    tickets: dict[str, _Ticket] = field(default_factory=dict)
    trainings: dict[str, Prediction] = field(default_factory=dict)
    _sizes: dict[DataOptions, tuple[int, int]] = field(default_factory=dict)

    def network(self, arch: str, data: DataOptions) -> Network:
        """A network on that data."""
        return network(arch, data.image_size, self._size(data)[1])

    def steps_per_epoch(self, setting: Setting) -> int:
        """Optimizer steps an epoch."""
        return TrainPlan(0, self._size(setting.data)[0], setting.train.global_batch).steps_per_epoch

    def _size(self, data: DataOptions) -> tuple[int, int]:
        if data not in self._sizes:
            self._sizes[data] = data.size()
        return self._sizes[data]


def predict(jobs: Sequence[Job], convention: Convention | None = None) -> dict[str, Prediction]:
    """The cost of every job that trains, by name.

    What pruning will leave of each layer is not known before: every layer is taken to have the global density (of a
    ticket file from elsewhere, its own). The densities that a transfer moves and the numbers of steps are exact, and so
    are the costs of dense trainings. RigL's updates are taken to go on to the end, as in its paper's formula. What the
    gradients of SNIP, GraSP and SynFlow cost is left out.

    Args:
        jobs: a method's, inputs first (see graph.plan).
        convention: how FLOPs are counted; None: `exact`.

    Raises:
        UserError: the dataset cannot be counted, or a ticket file not be read.
    """
    walk = _Walk(CONVENTIONS["exact"] if convention is None else convention)
    for job in jobs:
        _visit(job, walk)
    return walk.trainings


def _visit(job: Job, walk: _Walk) -> None:
    inputs = {role: walk.tickets[name] for role, name in job.inputs.items() if name in walk.tickets}
    options = job.options
    match options:
        case PretrainJob():
            setting = options.setting
            rewind = options.rewind.iterations(walk.steps_per_epoch(setting))
            walk.tickets[job.name] = _Ticket(setting.model.arch, {}, rewind)
            if rewind:
                _train(job.name, setting, _Ticket(setting.model.arch, {}, 0), walk, end=rewind)
        case MaskJob():
            before = inputs["ticket"]
            shapes = _named(before.arch)
            left = 1 - options.prune_fraction
            densities = {name: left * before.densities.get(name, 1.0) for name in shapes}
            walk.tickets[job.name] = _Ticket(before.arch, densities, before.rewind_step)
        case PruneJob():
            walk.tickets[job.name] = _pruned(options, inputs.get("ticket"), inputs.get("like"), walk)
        case TransferJob():
            walk.tickets[job.name] = _moved(options, _from_file(options.path) or inputs["ticket"])
        case DynamicJob():
            _change(job.name, options, inputs.get("like"), walk)
        case LevelJob():
            walk.tickets[job.name] = inputs["ticket"]
            _train(job.name, options.setting, inputs["ticket"], walk)
        case TrainJob():
            setting = options.setting
            ticket = _from_file(options.path) or inputs.get("ticket") or _Ticket(setting.model.arch, {}, 0)
            _train(job.name, setting, ticket, walk)


def _train(name: str, setting: Setting, ticket: _Ticket, walk: _Walk, end: int | None = None) -> None:
    """One training from the ticket's rewind step to `end` (None: to the last step)."""
    total = setting.train.epochs * walk.steps_per_epoch(setting)
    _add(name, setting, ticket, walk, end=total if end is None else end, total=total)


def _change(name: str, options: DynamicJob, like: _Ticket | None, walk: _Walk) -> None:
    """One training with changing masks, from initialisation."""
    setting, update = options.setting, options.update
    arch, density = setting.model.arch, options.density
    if density is None:
        like = _from_file(options.path) or like
        assert like is not None, "no density"
        density = walk.network(like.arch, setting.data).density(like.densities)
    shapes = network(arch, 32, 2).shapes
    if update.distribution == "global":
        densities = dict.fromkeys(shapes, density)
    else:
        densities = DISTRIBUTIONS[update.distribution](shapes, density)
    per_epoch = walk.steps_per_epoch(setting)
    total = setting.train.epochs * per_epoch
    longer, stretched = total * update.multiplier, update.stretched()
    ramp, interval = None, 1
    if isinstance(stretched, Gradual | Dpf):
        ramp = Ramp(*stretched.ramp(longer, per_epoch), longer, stretched.every)
    else:
        interval = stretched.delta_t
    made = _Ticket(arch, densities, 0)
    _add(name, setting, made, walk, end=longer, total=total, method=update.name, interval=interval, ramp=ramp)


def _add(
    name: str,
    setting: Setting,
    ticket: _Ticket,
    walk: _Walk,
    *,
    end: int,
    total: int,
    method: MethodName = "static",
    interval: int = 1,
    ramp: Ramp | None = None,
) -> None:
    """A training up to the step `end`, beside a dense one of `total` steps."""
    counted, convention = walk.network(ticket.arch, setting.data), walk.convention
    forward, dense = convention.forward(counted, ticket.densities), convention.forward(counted)
    start = ticket.rewind_step
    samples = (end - start) * setting.train.global_batch
    cost = training_cost(method, forward, dense, interval=interval, ramp=ramp, convention=convention.name)
    walk.trainings[name] = Prediction(
        arch=ticket.arch,
        density=counted.density(ticket.densities),
        start=start,
        end=end,
        samples=samples,
        forward=forward,
        dense_forward=dense,
        train=samples * cost,
        dense_train=total * setting.train.global_batch * step_cost(dense, dense),
    )


def _pruned(options: PruneJob, theta_r: _Ticket | None, like: _Ticket | None, walk: _Walk) -> _Ticket:
    like = _from_file(options.path) or like
    ticket = theta_r or like
    assert ticket is not None, "nothing to prune"
    names = _named(ticket.arch)
    if options.copies or (options.criterion.matched == "layerwise" and like is not None):
        assert like is not None, "no densities"
        return _Ticket(ticket.arch, like.densities, ticket.rewind_step)
    density = options.density
    if density is None:
        assert like is not None, "no density"
        density = walk.network(like.arch, options.setting.data).density(like.densities)
    return _Ticket(ticket.arch, dict.fromkeys(names, density), ticket.rewind_step)


def _moved(options: TransferJob, ticket: _Ticket) -> _Ticket:
    """Layer densities move with the units."""
    target = options.transfer.to
    old, new = (blank_model(arch, 2).state_dict() for arch in (ticket.arch, target))
    sources = source_keys(options.transfer.plan_from(ticket.arch), old, new)
    densities = {name: ticket.densities.get(sources[name], 1.0) for name in _named(target)}
    return _Ticket(target, densities, ticket.rewind_step)


def _from_file(path: str | None) -> _Ticket | None:
    if path is None:
        return None
    found = Ticket.load(Path(path))
    return _Ticket(found.arch, found.masks.densities, found.meta.rewind_step)


def _named(arch: str) -> list[str]:
    """The prunable weights of a network."""
    return list(network(arch, 32, 2).shapes)
