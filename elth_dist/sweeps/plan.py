"""Expand a sweep file to one graph of jobs: each job once, named by the hash of what determines its result."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from elth_dist.commandline import mistakes
from elth_dist.config import Config, explain, is_typed, merge, read_yaml
from elth_dist.errors import UserError
from elth_dist.jobs.graph import Job
from elth_dist.jobs.plan import Plan, make_plan
from elth_dist.plugins import load_plugins
from elth_dist.sweeps.options import Experiment, SweepOptions


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep, possibly shared by several runs."""

    name: str  # kind and identity: the same in every sweep
    job: Job  # with this name, and its inputs' names in the sweep
    config: Config  # of the first run that contains the job
    label: str  # its name in that run
    group: str  # equal for jobs that differ only in seeds

    @property
    def inputs(self) -> list[str]:
        """Names of the jobs that it needs."""
        return list(dict.fromkeys(self.job.inputs.values()))


@dataclass(frozen=True)
class Sweep:
    """A planned sweep."""

    name: str
    options: SweepOptions
    jobs: Mapping[str, SweepJob]  # by name, inputs first

    def with_inputs(self, name: str) -> dict[str, SweepJob]:
        """Return a job and all jobs that it needs, directly or indirectly."""
        needed: dict[str, SweepJob] = {}
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed[name] = self.jobs[name]
                waiting += self.jobs[name].inputs
        return needed

    @property
    def finals(self) -> list[str]:
        """The jobs that no other job needs: the results of the sweep."""
        needed = {name for job in self.jobs.values() for name in job.inputs}
        return [name for name in self.jobs if name not in needed]


def read_sweep(path: Path) -> SweepOptions:
    """A sweep file, checked for itself. UserError, one line."""
    sections = read_yaml(path, "sweep file")
    if "recipe" not in sections and {"model", "method"} & sections.keys():
        raise UserError(f"{path}: is a run's configuration; run it with python -m elth_dist.train --config {path}")
    try:
        return SweepOptions(**sections)
    except ValidationError as error:
        raise UserError(f"{path}: {mistakes.explain(error, SweepOptions, given=sections)}") from None


def plugins_of(path: Path) -> list[str]:
    """The plugins that a sweep file and its recipe name. UserError if one of the files cannot be read."""
    sections = read_yaml(path, "sweep file")
    recipe = sections.get("recipe")
    sources = [read_yaml(path.parent / recipe, f"{path}: recipe")] if isinstance(recipe, str) else []
    listed = [source.get("plugins") or [] for source in (*sources, sections)]
    wrong = next((names for names in listed if not isinstance(names, list)), None)
    if wrong is not None:
        raise UserError(f"{path}: plugins: {wrong!r} is not a list; write [my_package.criteria, path/to/file.py]")
    return list(dict.fromkeys(str(name) for names in listed for name in names))


def plan_sweep(path: Path, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """Expand a sweep file to the jobs of all its runs, with shared jobs planned once.

    Args:
        path: the sweep file.
        overrides: sections of options from the command line, which override all others.

    Raises:
        UserError: names the file, the option and what is valid.
    """
    overrides = overrides or {}
    plugins = tuple(overrides.get("plugins") or plugins_of(path))
    load_plugins(plugins)
    options = read_sweep(path)
    jobs: dict[str, SweepJob] = {}
    for config in _configs(path, options, overrides):
        for job in run_jobs(config.model_copy(update={"plugins": plugins})):
            jobs.setdefault(job.name, job)
    return Sweep(path.stem, options, jobs)


def run_jobs(config: Config) -> list[SweepJob]:
    """List the jobs of one run under their names in a sweep, inputs first."""
    return _named(config, make_plan(config.method, config.setting))


def _named(config: Config, plan: Plan) -> list[SweepJob]:
    groups = plan.groups
    names = {job.name: f"{job.options.folder}-{job.identity[:12]}" for job in plan.jobs}
    return [
        SweepJob(
            name=names[job.name],
            job=replace(job, name=names[job.name], inputs={role: names[other] for role, other in job.inputs.items()}),
            config=config,
            label=job.name,
            group=groups[job.name],
        )
        for job in plan.jobs
    ]


def read_job(config_yaml: str, name: str) -> tuple[Config, Plan, dict[str, SweepJob]]:
    """Plan a job's run again from the configuration written for it; return configuration, plan, and jobs by name.

    Raises:
        UserError: the configuration no longer leads to that job: the code, a plugin or a ticket file has changed.
    """
    sections = yaml.safe_load(config_yaml)
    load_plugins(sections.get("plugins", ()))
    config = Config(**sections)
    plan = make_plan(config.method, config.setting)
    jobs = {job.name: job for job in _named(config, plan)}
    if name not in jobs:
        raise UserError(
            f"{name}: its configuration now leads to other jobs, because elth_dist, a plugin or a ticket file has "
            "changed since it was planned; submit the sweep again"
        )
    return config, plan, jobs


def _configs(path: Path, options: SweepOptions, overrides: Mapping[str, Any]) -> Iterator[Config]:
    recipe = merge(read_yaml(path.parent / options.recipe, f"{path}: recipe"), options.overrides)
    for number, experiment in enumerate(options.experiments):
        base = merge(recipe, experiment.overrides)
        seeds, data_seeds = experiment.seeds or options.seeds, experiment.data_seeds or (None,)
        for seed, data_seed, source, method, point in itertools.product(
            seeds, data_seeds, experiment.sources, experiment.methods, list(experiment.points())
        ):
            over = {"model": {"arch": source}, "seed": seed, "data_seed": data_seed, "method": method}
            merged = merge(merge(merge(base, over), point), overrides)
            if "transfers" not in {**method, **point.get("method", {})}:
                _add_transfers(merged, experiment, source)
            yield _config(merged, path, f"experiments.{number}: ", overrides)


def _add_transfers(merged: dict[str, Any], experiment: Experiment, source: str) -> None:
    """Add each kind of transfer to each target but the source itself. Only IMP has tickets to transfer."""
    chosen = merged.get("method")
    if isinstance(chosen, dict) and chosen.get("name") == "imp":
        others = [target for target in experiment.targets if target != source]
        merged["method"] = {**chosen, "transfers": [{"to": to, **how} for to in others for how in experiment.transfers]}


def _config(merged: dict[str, Any], path: Path, where: str, overrides: Mapping[str, Any]) -> Config:
    merged["run"] = {"name": path.stem}
    try:
        return Config(**merged)
    except ValidationError as error:
        place = "" if is_typed(error, overrides) else f"{path}: {where}"
        raise UserError(f"{place}{explain(error, overrides, None, merged)}") from None
