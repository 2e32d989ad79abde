"""What a report is made of: one flat record per trained network, lines and distances between two. No torch here."""

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

BatchNorm = Literal["running", "reestimated"]

#: Options with a column of their own, and options that only say which repetition it is.
_IN_COLUMNS = ("level", "density", "data_order", "order", "setting.seed", "setting.data_seed", "setting.train.bn")
#: Sections that a reader needs no name of.
_SECTIONS = ("setting.", "transfer.", "update.", "criterion.", "control.")

#: Two accuracies with different BatchNorm statistics that differ by more than this are pointed out.
BN_POINT = 0.01


@dataclass(frozen=True)
class Record:
    """One trained network: how it was made, what it cost and how good it is. Accuracies are in [0, 1]."""

    run: str
    """Name of the run or sweep."""
    job: str
    identity: str
    group: str
    """Equal for jobs that differ in seeds or data orders alone."""
    kind: str
    """The kind of job."""
    method: str
    """Which method made the network: the name of a control, criterion or update, `imp`, `ett`, `dense`."""
    what: str
    """The same for people."""
    arch: str
    level: int | None
    """IMP level of the network's ticket, or of the ticket that it is compared with."""
    source: str | None
    """Network that the ticket was transferred from; None: it was not."""
    source_level: int | None
    order: str | None
    squeeze: str | None
    units: str | None
    plan: str | None
    """The transfer's plan in the authors' text form."""
    options: Mapping[str, str]
    """Options, off their defaults, that the network depends on, those of the jobs that it needs included."""
    defaults: Mapping[str, str]
    """The value of every option."""
    seed: int
    data_seed: int | None
    data_order: int
    """Number of the data order, among those of the same ticket; 0: the usual one."""
    dataset: str
    classes: int | None
    """Of the dataset; None: unknown."""
    density: float
    layer_densities: Mapping[str, float]
    """Kept fraction of each prunable weight; empty for a dense network."""
    train_flops: int
    """Of this training."""
    history_flops: int | None
    """With all trainings that it needs, each once; None: unknown, because it builds on a ticket from outside."""
    forward_flops: int
    dense_train_flops: int
    """Of one dense training of the same network."""
    dense_forward_flops: int
    start_step: int
    end_step: int
    bn: BatchNorm
    """Which of the two accuracies counts (train.bn)."""
    top1: float
    top5: float
    val_loss: float
    reestimated_top1: float | None
    """With BatchNorm statistics re-estimated on training batches; None: from an older version."""
    reestimated_top5: float | None
    reestimated_val_loss: float | None
    reestimated_batches: int | None
    diverged: bool
    overlap: float | None = None
    """Jaccard index of its masks and those of the level before."""
    layer_overlaps: Mapping[str, float] = field(default_factory=dict)
    folder: Path | None = None
    """The job's folder."""

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy with the BatchNorm statistics that count."""
        found = self.reestimated_top1 if self.bn == "reestimated" else None
        return self.top1 if found is None else found

    @property
    def accuracy5(self) -> float:
        """Top-5 accuracy with the BatchNorm statistics that count."""
        found = self.reestimated_top5 if self.bn == "reestimated" else None
        return self.top5 if found is None else found

    @property
    def other_accuracy(self) -> float | None:
        """Top-1 accuracy with the other BatchNorm statistics; None: not measured."""
        return self.reestimated_top1 if self.bn == "running" or self.reestimated_top1 is None else self.top1

    @property
    def bn_matters(self) -> bool:
        """Whether the two accuracies differ by more than a point."""
        return self.reestimated_top1 is not None and abs(self.reestimated_top1 - self.top1) > BN_POINT

    @property
    def relative_train(self) -> float:
        """FLOPs of this training, in dense trainings of the same network."""
        return self.train_flops / self.dense_train_flops

    @property
    def relative_history(self) -> float | None:
        """FLOPs with history, in dense trainings of the same network."""
        return None if self.history_flops is None else self.history_flops / self.dense_train_flops

    @property
    def relative_forward(self) -> float:
        """FLOPs of inference, in dense forward passes."""
        return self.forward_flops / self.dense_forward_flops

    @property
    def flags(self) -> list[str]:
        """What a reader must know of the result."""
        empty = [name.removesuffix(".weight") for name, kept in self.layer_densities.items() if kept == 0]
        return [
            *(["diverged"] if self.diverged else []),
            *(["at chance"] if self.at_chance else []),
            *(["BN"] if self.bn_matters else []),
            *([f"empty layers: {len(empty)}"] if empty else []),
        ]

    @property
    def seeds(self) -> str:
        """Seed, seed of the data order if that is another, and number of the data order if it is not the usual one."""
        seeds = f"{self.seed}" if self.data_seed is None else f"{self.seed}/{self.data_seed}"
        return f"{seeds}#{self.data_order}" if self.data_order else seeds

    def option(self, name: str) -> str | None:
        """The value of an option, also of one at its default; None: neither the job nor those it needs have it."""
        return self.options.get(name, self.defaults.get(name))

    @property
    def at_chance(self) -> bool:
        """Whether the network guesses: its accuracy is at most one and a half times that of guessing."""
        return self.classes is not None and self.accuracy <= 1.5 / self.classes

    def to_json(self) -> dict[str, Any]:
        """Everything but the defaults, as JSON values."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "defaults"}
        values["folder"] = None if self.folder is None else str(self.folder)
        return {**values, "flags": self.flags, "options": dict(self.options)}


@dataclass(frozen=True)
class Line:
    """Error and loss on the straight line between the weights of two networks, each four times.

    Ways: `train_running`, `train_reestimated`, `val_running`, `val_reestimated` (which data, which BatchNorm).
    """

    run: str
    job: str
    ends: tuple[str, str]
    """Names of the two jobs."""
    one: Record | None
    other: Record | None
    alphas: Sequence[float]
    errors: Mapping[str, Sequence[float]]
    """By way; fractions in [0, 1], one for each alpha."""
    losses: Mapping[str, Sequence[float]]
    barriers: Mapping[str, Mapping[str, float]]
    """By way and definition: `frankle`, `elth`, `maene`."""


@dataclass(frozen=True)
class Distances:
    """Distances between the weights of several networks, each with each, over the weights that both keep.

    Matrices by measure: `l2`, `angle` (degrees), `cosine`; row i has the i + 1 distances to the networks 0 to i.
    """

    run: str
    job: str
    ends: tuple[str, ...]
    """Names of the jobs."""
    networks: tuple[Record | None, ...]
    labels: tuple[str, ...]
    total: Mapping[str, Sequence[Sequence[float]]]
    layers: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]


@dataclass(frozen=True)
class Results:
    """Everything that runs and sweeps have left."""

    title: str
    records: tuple[Record, ...]
    lines: tuple[Line, ...] = ()
    distances: tuple[Distances, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be read, and why."""


@dataclass(frozen=True)
class Experiment:
    """One experiment over its seeds."""

    label: str
    """What it is, with the options that distinguish it."""
    distinguishing: Mapping[str, str]
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The first seed's record, for what all have in common."""
        return self.records[0]

    @cached_property
    def accuracies(self) -> list[float]:
        """Top-1 of each seed, in [0, 1]."""
        return [record.accuracy for record in self.records]

    @property
    def density(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(record.density for record in self.records)

    @property
    def accuracy(self) -> float:
        """Mean top-1 over the seeds, in [0, 1]."""
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of top-1; None for one seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def diverged(self) -> bool:
        """Whether any seed diverged."""
        return any(record.diverged for record in self.records)

    @property
    def failed(self) -> bool:
        """Whether any seed diverged or guesses."""
        return any(record.diverged or record.at_chance for record in self.records)

    def mean(self, value: Callable[[Record], float | None]) -> float | None:
        """Mean of a figure over the seeds; None if any seed has none."""
        found = [value(record) for record in self.records]
        known = [number for number in found if number is not None]
        return statistics.mean(known) if len(known) == len(found) else None

    @property
    def flags(self) -> list[str]:
        """What a reader must know, over all seeds."""
        return list(dict.fromkeys(flag for record in self.records for flag in record.flags))


def experiments(records: Iterable[Record]) -> list[Experiment]:
    """Put the seeds of each experiment together, and label each so that no two with other options look alike."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    members = [tuple({record.identity: record for record in group}.values()) for group in groups.values()]
    firsts = [group[0] for group in members]
    alike: dict[Any, list[Record]] = {}
    for first in firsts:
        alike.setdefault((first.what, first.arch, first.dataset), []).append(first)
    told = {first.group: more for same in alike.values() for first, more in zip(same, differences(same), strict=True)}
    return [Experiment(labelled(group[0].what, told[group[0].group]), told[group[0].group], group) for group in members]


def differences(records: Sequence[Record]) -> list[dict[str, str]]:
    """For each record, the options that it has and in which the records do not agree, by their short names."""
    names = dict.fromkeys(name for record in records for name in record.options if not _in_a_column(name))
    values = {name: [record.option(name) for record in records] for name in names}
    differing = [name for name, found in values.items() if len({value for value in found if value is not None}) > 1]
    return [
        {short(name): value for name in differing if (value := values[name][place]) is not None}
        for place in range(len(records))
    ]


def labelled(what: str, options: Mapping[str, str]) -> str:
    """A title with the options that tell it from others."""
    return ", ".join([what, *(f"{name} {value}" for name, value in options.items())])


def short(option: str) -> str:
    """An option's name without its section: `setting.train.lr` is `train.lr`."""
    prefix, name = ("like ", option.removeprefix("like.")) if option.startswith("like.") else ("", option)
    return prefix + next((name.removeprefix(section) for section in _SECTIONS if name.startswith(section)), name)


def _in_a_column(option: str) -> bool:
    return option.removeprefix("like.") in _IN_COLUMNS


#: The columns of records.csv.
COLUMNS = (
    "run", "job", "identity", "kind", "method", "what", "distinguishing", "arch", "level", "source",
    "source_level", "order", "squeeze", "units", "plan", "options", "seed", "data_seed", "data_order",
    "dataset", "density", "bn", "top1", "top5", "val_loss", "reestimated_top1", "reestimated_top5",
    "reestimated_val_loss", "reestimated_batches", "diverged", "flags", "train_flops", "history_flops",
    "forward_flops", "dense_train_flops", "dense_forward_flops", "relative_train", "relative_history",
    "relative_forward", "start_step", "end_step", "overlap",
)  # fmt: skip


def to_csv(records: Sequence[Record]) -> str:
    """One line per trained network; accuracies and densities are fractions, FLOPs absolute and relative to dense."""
    told = {
        record.identity: experiment.distinguishing
        for experiment in experiments(records)
        for record in experiment.records
    }
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for record in records:
        values = {name: getattr(record, name) for name in COLUMNS if name != "distinguishing"}
        values |= {"distinguishing": told[record.identity], "flags": record.flags}
        table.writerow([_cell(values[name]) for name in COLUMNS])
    return text.getvalue()


def to_json(results: Results) -> str:
    """All records, lines and distances."""

    def pair(found: Line | Distances) -> dict[str, Any]:
        ends = ("one", "other", "networks")
        return {entry.name: getattr(found, entry.name) for entry in fields(found) if entry.name not in ends}

    whole = {
        "records": [record.to_json() for record in results.records],
        "lines": [pair(line) for line in results.lines],
        "distances": [pair(distance) for distance in results.distances],
        "notes": results.notes,
    }
    return json.dumps(whole, indent=1) + "\n"


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}={entry}" for name, entry in value.items())
    return "; ".join(value) if isinstance(value, list) else value
