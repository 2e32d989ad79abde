"""A method as a graph of jobs: who needs whose result. Torch-free; train.py walks it here, a launcher submits it."""

import hashlib
import itertools
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elth_dist.jobs.options import (
    Altered,
    Control,
    DenseMethod,
    DynamicJob,
    DynamicMethod,
    ImpMethod,
    JobOptions,
    LevelJob,
    MaskJob,
    Method,
    PretrainJob,
    PrunedMethod,
    PruneJob,
    ReinitMethod,
    Setting,
    SnipCopies,
    TicketMethod,
    TrainJob,
    TransferBranch,
    TransferJob,
)
from elth_dist.options import Step
from elth_dist.sparsity.options import Snip
from elth_dist.sparsity.updates.options import Dpf, Dynamic, Gradual, Rigl, Set, Snfs

#: Part of every identity: raised when the meaning of an option or of a job changes.
GRAPH_VERSION = 1


@dataclass(frozen=True)
class Job:
    """One piece of work. `inputs` maps a role (ticket, trained) to the name of the job whose result plays it."""

    name: str
    options: JobOptions
    inputs: Mapping[str, str] = field(default_factory=dict)


def parts(jobs: Sequence[Job], files: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Name -> the options that determine a job's result, apart from its inputs.

    `files`: content hash of each ticket file that a `path` option names, since its content decides, not its name.
    """
    found = {}
    for job in jobs:
        part = job.options.identity()
        path = getattr(job.options, "path", None)
        if path is not None:
            part["path"] = (files or {}).get(path, path)
        found[job.name] = part
    return found


def identities(jobs: Sequence[Job], files: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name -> hash of what determines a job's result: its part of the options, and its inputs' identities.

    `jobs` come in an order in which inputs come first; for `files`, see parts().
    """
    found: dict[str, str] = {}
    own = parts(jobs, files)
    for job in jobs:
        inputs = {role: found[name] for role, name in job.inputs.items()}
        text = json.dumps([GRAPH_VERSION, own[job.name], inputs], sort_keys=True)
        found[job.name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def plan(method: Method, setting: Setting) -> list[Job]:
    """The jobs of a method, each after those it needs."""
    graph = _Graph()
    match method:
        case ImpMethod():
            _plan_imp(graph, method, setting)
        case DenseMethod():
            _dense(graph, setting)
        case TicketMethod():
            _plan_ticket(graph, method, setting)
        case PrunedMethod():
            theta_r = graph.add("pretrain", _pretrain(setting, method.rewind))
            options = PruneJob(setting=setting, criterion=method.criterion, density=method.density, path=method.like)
            graph.add("train", _train(setting), ticket=graph.add("mask", options, ticket=theta_r))
        case DynamicMethod():
            changing = _changing(setting, method.update, density=method.density, path=method.like)
            graph.add("train", changing)
        case ReinitMethod():
            graph.add("train", _train(setting, control="reinit", path=method.like))
    return graph.jobs


class _Graph:
    """Jobs in the order in which they were added."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    @property
    def jobs(self) -> list[Job]:
        return list(self._jobs.values())

    def add(self, name: str, options: JobOptions, **inputs: str) -> str:
        """Add a job, unless the very same one is there by this name; another one by it makes this one `name-2`, ...

        Returns its name, which plays a role among the inputs of others.
        """
        for candidate in itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2))):
            job = Job(candidate, options, inputs)
            if self._jobs.setdefault(candidate, job) == job:
                return candidate
        raise AssertionError


@dataclass(frozen=True)
class _Place:
    """Where controls stand: beside the ticket of the job `ticket`, whose network `setting` trains."""

    name: str
    setting: Setting
    ticket: str
    rewind: Step
    theta_r: str  # the job that leaves it, or is to


def _plan_imp(graph: _Graph, method: ImpMethod, setting: Setting) -> None:
    tickets = [graph.add("pretrain", _pretrain(setting, method.rewind))]
    for level in range(method.levels + 1):
        previous = {}
        if level:
            options = MaskJob(level=level, prune_fraction=method.prune_fraction)
            trained = _level_name(level - 1)
            tickets.append(graph.add(f"mask-{level:02d}", options, ticket=tickets[-1], trained=trained))
            previous = {"previous": tickets[-2]}
        order = _level_name(level) if method.data_order == "per_level" else "level"
        training = LevelJob(setting=setting, level=level, data_order=order)
        graph.add(_level_name(level), training, ticket=tickets[-1], **previous)
    own = _Place(setting.model.arch, setting, tickets[-1], method.rewind, "pretrain")
    for control in method.controls:
        _add_control(graph, control, own)
    names: set[str] = set()
    for branch in method.transfers:
        name = _branch_name(branch, method.levels, names)
        names.add(name)
        target = setting.model_copy(update={"model": setting.model.model_copy(update={"arch": branch.to})})
        source = tickets[-1 if branch.level is None else branch.level]
        moved = graph.add(f"transfer-{name}", TransferJob(transfer=branch.rules), ticket=source)
        graph.add(f"train-{name}", _train(target), ticket=moved)
        theta_r = "pretrain" if target == setting else f"pretrain-{branch.to}"
        place = _Place(name, target, moved, method.rewind, theta_r)
        for control in branch.controls:
            _add_control(graph, control, place)


def _plan_ticket(graph: _Graph, method: TicketMethod, setting: Setting) -> None:
    path: str | None = method.path
    inputs = {}
    if method.transfer is not None:
        inputs["ticket"] = graph.add("transfer", TransferJob(transfer=method.transfer, path=path))
        path = None
    if method.control != "snip_copies":
        graph.add("train", _train(setting, control=method.control, path=path), **inputs)
        return
    options = PruneJob(setting=setting, criterion=_SNIP_COPIES, path=path, copies=True)
    likes = {"like": inputs["ticket"]} if inputs else {}
    graph.add("train", _train(setting), ticket=graph.add("mask", options, **inputs, **likes))


#: SNIP's masks at each layer's density, in what a transfer copied.
_SNIP_COPIES = Snip(matched="layerwise")


def _add_control(graph: _Graph, control: Control, place: _Place) -> None:
    """One experiment beside a ticket, and what it needs first."""
    name, setting = f"{control.name}-{place.name}", place.setting
    match control:
        case Altered(name="dense"):
            _dense(graph, setting)
        case Altered():
            graph.add(name, _train(setting, control=control.name), ticket=place.ticket)
        case SnipCopies():
            criterion = _SNIP_COPIES.model_copy(update={"batches": control.batches})
            options = PruneJob(setting=setting, criterion=criterion, copies=True)
            mask = graph.add(f"mask-{name}", options, ticket=place.ticket, like=place.ticket)
            graph.add(name, _train(setting), ticket=mask)
        case Rigl() | Set() | Snfs() | Gradual() | Dpf():
            longer = "" if control.multiplier == 1 else f"-{control.multiplier}x"
            graph.add(f"{control.name}{longer}-{place.name}", _changing(setting, control), like=place.ticket)
        case _:
            theta_r = graph.add(place.theta_r, _pretrain(setting, place.rewind))
            options = PruneJob(setting=setting, criterion=control)
            mask = graph.add(f"mask-{name}", options, ticket=theta_r, like=place.ticket)
            graph.add(name, _train(setting), ticket=mask)


def _pretrain(setting: Setting, rewind: Step) -> PretrainJob:
    """theta_r is the same for all data orders after it."""
    return PretrainJob(setting=setting.model_copy(update={"data_seed": None}), rewind=rewind)


def _dense(graph: _Graph, setting: Setting) -> None:
    options = TrainJob(setting=setting, data_order="pretrain", control="dense")
    graph.add(f"dense-{setting.model.arch}", options)


def _train(setting: Setting, **options: Any) -> TrainJob:
    return TrainJob(setting=setting, data_order="train", **options)


def _changing(setting: Setting, update: Dynamic, **options: Any) -> DynamicJob:
    """From initialisation, in the data order of dense training."""
    return DynamicJob(setting=setting, data_order="pretrain", update=update, **options)


def _level_name(level: int) -> str:
    return f"level-{level:02d}"


def _branch_name(branch: TransferBranch, levels: int, taken: Container[str]) -> str:
    level = "" if branch.level in (None, levels) else f"-level-{branch.level:02d}"
    name = f"{branch.to}{level}"
    candidates = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)
