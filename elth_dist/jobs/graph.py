"""A method as a graph of jobs: who needs whose result. Torch-free; train.py walks it here, a launcher submits it."""

import hashlib
import itertools
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elth_dist.jobs.options import (
    Control,
    DenseMethod,
    ImpMethod,
    JobOptions,
    LevelJob,
    MaskJob,
    Method,
    PretrainJob,
    Setting,
    TicketMethod,
    TrainJob,
    TransferBranch,
    TransferJob,
)

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
    match method:
        case ImpMethod():
            return _plan_imp(method, setting)
        case DenseMethod():
            return [_dense(setting)]
        case TicketMethod():
            return _plan_ticket(method, setting)


def _plan_imp(method: ImpMethod, setting: Setting) -> list[Job]:
    jobs = [Job("pretrain", PretrainJob(setting=setting, rewind=method.rewind))]

    def ticket_of(level: int) -> str:
        return _mask_name(level) if level else "pretrain"

    for level in range(method.levels + 1):
        if level:
            inputs = {"ticket": ticket_of(level - 1), "trained": _level_name(level - 1)}
            jobs.append(Job(_mask_name(level), MaskJob(level=level, prune_fraction=method.prune_fraction), inputs))
        order = _level_name(level) if method.data_order == "per_level" else "level"
        inputs = {"ticket": ticket_of(level)} | ({"previous": ticket_of(level - 1)} if level else {})
        jobs.append(Job(_level_name(level), LevelJob(setting=setting, level=level, data_order=order), inputs))
    last = ticket_of(method.levels)
    jobs += _controls(method.controls, setting, last)
    names: set[str] = set()
    for branch in method.transfers:
        name = _branch_name(branch, method.levels, names)
        names.add(name)
        target = setting.model_copy(update={"model": setting.model.model_copy(update={"arch": branch.to})})
        source = last if branch.level is None else ticket_of(branch.level)
        jobs.append(Job(f"transfer-{name}", TransferJob(transfer=branch.rules), {"ticket": source}))
        jobs.append(Job(f"train-{name}", TrainJob(setting=target, data_order="train"), {"ticket": f"transfer-{name}"}))
        jobs += _controls(branch.controls, target, f"transfer-{name}", suffix=name)
    unique: dict[str, Job] = {}
    for job in jobs:  # two branches to one architecture share its dense control
        unique.setdefault(job.name, job)
    return list(unique.values())


def _plan_ticket(method: TicketMethod, setting: Setting) -> list[Job]:
    if method.transfer is None:
        options = TrainJob(setting=setting, data_order="train", control=method.control, path=method.path)
        return [Job("train", options)]
    return [
        Job("transfer", TransferJob(transfer=method.transfer, path=method.path)),
        Job("train", TrainJob(setting=setting, data_order="train", control=method.control), {"ticket": "transfer"}),
    ]


def _controls(controls: Sequence[Control], setting: Setting, ticket: str, suffix: str | None = None) -> list[Job]:
    jobs = []
    for control in controls:
        if control == "dense":
            jobs.append(_dense(setting))
        else:
            name = f"random-{suffix or setting.model.arch}"
            options = TrainJob(setting=setting, data_order="train", control=control)
            jobs.append(Job(name, options, {"ticket": ticket}))
    return jobs


def _dense(setting: Setting) -> Job:
    return Job(f"dense-{setting.model.arch}", TrainJob(setting=setting, data_order="pretrain", control="dense"))


def _level_name(level: int) -> str:
    return f"level-{level:02d}"


def _mask_name(level: int) -> str:
    return f"mask-{level:02d}"


def _branch_name(branch: TransferBranch, levels: int, taken: Container[str]) -> str:
    level = "" if branch.level in (None, levels) else f"-level-{branch.level:02d}"
    name = f"{branch.to}{level}"
    candidates = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)
