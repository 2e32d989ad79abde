"""Options of a sweep file: sources, targets, methods, seeds, and the jobs' needs on a cluster. No torch here."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from elth_dist.errors import UserError
from elth_dist.models.options import ArchName
from elth_dist.options import Options

_Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")


def _minutes(value: Any) -> Any:
    """Convert SLURM's "1-12:00:00" or "36:00:00" to minutes; a number is taken as minutes."""
    if isinstance(value, str) and not value.isdecimal():
        match = _TIME.fullmatch(value)
        if match is None:
            raise ValueError(
                f"{value!r} is not a time: write minutes, hours:minutes:seconds or days-hours:minutes:seconds"
            )
        days, first, second, third = (int(part or 0) for part in match.groups())
        seconds = days * 86400 + (first * 3600 + second * 60 + third if match[1] or match[4] else first * 60 + second)
        return -(-seconds // 60)
    return value


class Needs(Options):
    """The resources of one training on a cluster. Jobs that train nothing get one task."""

    nodes: Annotated[int, Field(ge=1, le=4096)] = Field(default=1, description="number of nodes")
    gpus: Annotated[int, Field(ge=0, le=64)] = Field(default=1, description="GPUs per node, one task each; 0: none")
    tasks: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="processes per node; null: one per GPU"
    )
    cpus: Annotated[int, Field(ge=1, le=1024)] = Field(default=8, description="CPU cores per task")
    memory: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="memory per node, GB; null: the cluster's default"
    )
    time: Annotated[int, BeforeValidator(_minutes), Field(ge=1)] = Field(
        default=1440,
        description="time limit of one stay, minutes or as SLURM writes it; longer jobs are requeued and continue",
    )
    notice: Annotated[int, Field(ge=10, le=3600)] = Field(
        default=180, description="time before the limit at which a job saves and requeues itself, seconds"
    )
    partition: str | None = Field(default=None, description="SLURM's partition; null: the cluster's default")
    account: str | None = Field(default=None, description="SLURM's account; null: the user's default")
    qos: str | None = Field(default=None, description="SLURM's quality of service; null: the cluster's default")
    constraint: str | None = Field(default=None, description="features that SLURM's nodes must have; null: none")
    setup: tuple[str, ...] = Field(
        default=(), description="shell lines that run before each job: modules, NCCL and network settings"
    )

    @model_validator(mode="after")
    def _has_time_to_work(self) -> Self:
        if self.notice + 10 > 60 * self.time:
            raise ValueError(
                f"notice {self.notice} s leaves no time to work: the limit, time, is {60 * self.time} s; lower notice"
            )
        return self

    @property
    def tasks_per_node(self) -> int:
        """Processes on each node."""
        return self.tasks or max(1, self.gpus)

    @property
    def light(self) -> "Needs":
        """The resources of a job that trains nothing."""
        few = {"nodes": 1, "gpus": min(1, self.gpus), "tasks": None, "memory": None}
        return self.model_copy(update=few)


def set_elsewhere(overrides: Mapping[str, Any]) -> dict[str, str]:
    """List the overrides that would have no effect in a sweep: option -> what to do instead."""
    places = {
        "seed": "set `seeds` in the sweep file instead",
        "data_seed": "set `data_seeds` in the sweep file instead",
        "model.arch": "set `sources` in the sweep file instead",
        "method.name": "set `methods` in the sweep file instead",
        "run.dir": "pass --dir instead",
        "run.name": "rename the sweep file instead",
    }

    def given(name: str) -> bool:
        section: Any = overrides
        for part in name.split("."):
            if not isinstance(section, Mapping) or part not in section:
                return False
            section = section[part]
        return True

    return {name: advice for name, advice in places.items() if given(name)}


class Experiment(Options):
    """Methods on networks: each method runs on each source, and IMP's tickets are transferred to each target."""

    sources: Annotated[tuple[ArchName, ...], Field(min_length=1)] = Field(
        description="networks that the methods run on"
    )
    targets: tuple[ArchName, ...] = Field(
        default=(), description="networks that IMP's tickets are transferred to, each but its own source"
    )
    transfers: tuple[dict[str, Any], ...] = Field(
        default=({},),
        description="options of the transfers to each target (order, units, controls, ...), one entry per way",
    )
    methods: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] = Field(
        default=({},), description="options over the recipe's method, or whole other methods"
    )
    seeds: tuple[_Seed, ...] | None = Field(default=None, description="seeds of these runs; null: the sweep's")
    data_seeds: tuple[_Seed, ...] | None = Field(
        default=None, description="data orders after the rewind step, for each seed; null: one, given by the seed"
    )
    overrides: dict[str, Any] = Field(default={}, description="sections of options over the recipe's and the sweep's")
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default={},
        description="options (train.lr) or sections (train) with a list of values each; everything runs with every "
        "combination of them, over the overrides and the methods",
    )

    @model_validator(mode="after")
    def _targets_differ(self) -> Self:
        if len(set(self.sources)) < len(self.sources) or len(set(self.targets)) < len(self.targets):
            raise ValueError("sources and targets must name each network once")
        for name, advice in set_elsewhere(self.overrides).items():
            raise ValueError(f"overrides.{name}: {advice}")
        if "method" in self.overrides:
            raise ValueError("overrides.method: set `methods` in the sweep file instead")
        return self

    @model_validator(mode="after")
    def _grid_has_points(self) -> Self:
        for option, values in self.grid.items():
            for number, value in enumerate(values):
                if value in values[:number]:
                    raise ValueError(f"grid.{option}: has {value!r} twice")
        for point in self.points():
            for name, advice in set_elsewhere(point).items():
                raise ValueError(f"grid.{name}: {advice}")
        return self

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield the sections of options of each combination in the grid, the last option's values first; one if none.

        A value that is itself a section of options keeps what other entries of the grid say of it.
        """
        for values in itertools.product(*self.grid.values()):
            point: dict[str, Any] = {}
            for option, value in zip(self.grid, values, strict=True):
                _put(point, option.split("."), value)
            yield point


def _put(sections: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set an option in nested sections; sections are merged."""
    first, *rest = path
    if rest:
        inner = sections.get(first)
        inner = sections[first] = dict(inner) if isinstance(inner, Mapping) else {}
        _put(inner, rest, value)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            _put(sections.setdefault(first, {}), [str(name)], each)
    else:
        sections[first] = value


class SweepOptions(Options):
    """A whole sweep file."""

    plugins: tuple[str, ...] = Field(
        default=(), description="modules that register methods, datasets and so on, for all runs (see a run's plugins)"
    )
    recipe: str = Field(description="a run's configuration file, relative to the sweep file: data, training, method")
    overrides: dict[str, Any] = Field(
        default={}, description="sections of options over the recipe's for all experiments"
    )
    seeds: Annotated[tuple[_Seed, ...], Field(min_length=1)] = Field(
        default=(0,), description="seeds of every experiment's runs"
    )
    experiments: Annotated[tuple[Experiment, ...], Field(min_length=1)] = Field(
        description="networks with the methods that run on them"
    )
    figures: tuple[str, ...] = Field(
        default=(),
        description="tables and figures of papers that the report of this sweep draws (python -m elth_dist.reporting "
        "--help lists them); none: all whose data are there",
    )
    images_per_second: dict[ArchName, Annotated[float, Field(gt=0)]] = Field(
        default={},
        description="training speed per GPU by network, images/s, for predictions; measured speeds take precedence",
    )
    needs: Needs = Field(default=Needs(), description="what one training asks of the cluster")

    @field_validator("figures")
    @classmethod
    def _figures_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from elth_dist.reporting.papers import figures_named

        try:
            figures_named(names)
        except UserError as error:
            raise ValueError(str(error)) from None
        return names

    @model_validator(mode="after")
    def _overrides_have_effect(self) -> Self:
        for name, advice in set_elsewhere(self.overrides).items():
            raise ValueError(f"overrides.{name}: {advice}")
        return self
