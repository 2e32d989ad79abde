"""From finished jobs to records, and the closing report of a run: a table and a figure of everything it trained."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elth_dist.jobs.costs import history_flops
from elth_dist.jobs.graph import Job
from elth_dist.reporting.metrics_file import read as read_rows
from elth_dist.reporting.records import Distances, Line, Record, Results
from elth_dist.reporting.summary import print_summary, write_summary
from elth_dist.runtime.job_folder import JobFolder
from elth_dist.runtime.run_directory import RunDirectory
from elth_dist.tickets.weights import load_about


@dataclass(frozen=True)
class Done:
    """A finished job and where its files are."""

    job: Job
    group: str
    """Equal for jobs that differ in seeds alone."""
    folder: JobFolder
    metrics_file: Path
    """The metrics.jsonl that has its rows."""


class Rows:
    """The jobs of a report, for job kinds to look up metrics, titles and methods."""

    def __init__(self, done: Iterable[Done]) -> None:
        """`done`: finished jobs, with all jobs that they need."""
        self.done = {entry.job.name: entry for entry in done}
        self.jobs = {name: entry.job for name, entry in self.done.items()}
        self._metrics: dict[str, dict[str, Any]] = {}
        self._options: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        self._logged: dict[Path, list[dict[str, Any]]] = {}

    def metrics(self, name: str) -> dict[str, Any]:
        """Return the metrics of a job's result. UserError if it is damaged."""
        if name not in self._metrics:
            self._metrics[name] = self.done[name].folder.read().metrics
        return self._metrics[name]

    def ticket_title(self, name: str) -> str:
        """Name the ticket of a job, for the row of the job that trains it."""
        job = self.jobs[name]
        return job.options.ticket_title(job, self)

    def ticket_method(self, name: str) -> str:
        """Return the method of a job's ticket."""
        job = self.jobs[name]
        return job.options.ticket_method(job, self)

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Return what a job reported, in order. UserError if a line is damaged."""
        path = self.done[name].metrics_file
        if path not in self._logged:
            self._logged[path] = read_rows(path) if path.exists() else []
        return [row for row in self._logged[path] if row["job"] == name]

    def options(self, name: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return the options off their defaults, and all options, of a job and of the jobs that it needs.

        By dotted names; the job's own come first, and those of a ticket that it only looks at begin with `like.`.
        """
        if name not in self._options:
            job = self.jobs[name]
            changed = dict(flat(job.options.identity()))
            every = dict(flat(job.options.model_dump(mode="json")))
            for role, other in job.inputs.items():
                prefix = "like." if role in job.options.looked_at else ""
                for mine, theirs in zip((changed, every), self.options(other), strict=True):
                    for option, value in theirs.items():
                        if not prefix or not option.startswith(("setting.", "like.")):
                            mine.setdefault(prefix + option, value)
            # what the job leaves at its default is not overridden by a job that it needs
            own = dict(flat(job.options.model_dump(mode="json")))
            changed = {option: value for option, value in changed.items() if own.get(option, value) == value}
            self._options[name] = changed, every
        return self._options[name]


def read_results(done: Sequence[Done], *, run: str, notes: Sequence[str] = ()) -> Results:
    """Make records of finished jobs, in the order given. Jobs whose inputs are not finished are left out.

    Args:
        done: finished jobs, inputs first.
        run: name of the run or sweep.
        notes: what could not be read.

    Raises:
        UserError: a result is damaged.
    """
    whole: dict[str, Done] = {}
    for entry in done:
        if all(other in whole for other in entry.job.inputs.values()):
            whole[entry.job.name] = entry
    rows = Rows(whole.values())
    results = {name: rows.metrics(name) for name in whole}
    records = {}
    for name, entry in whole.items():
        title = entry.job.options.title(entry.job, rows)
        if title is not None and "top1" in rows.metrics(name):
            records[name] = _record(entry, rows, run, title, history_flops(name, rows.jobs, results))
    lines = tuple(_line(rows, name, run, records) for name in whole if "line" in rows.metrics(name))
    distances = tuple(_distances(rows, name, run, records) for name in whole if "distance" in rows.metrics(name))
    return Results(run, tuple(records.values()), lines, distances, tuple(notes))


def _record(entry: Done, rows: Rows, run: str, title: str, history: int | None) -> Record:
    job, metrics = entry.job, rows.metrics(entry.job.name)
    options, defaults = rows.options(job.name)
    setting = job.options.network_setting
    assert setting is not None, f"{job.name} trains a network without a setting"
    moved = next((rows.metrics(name) for name in _ticket_jobs(job, rows) if "plan" in rows.metrics(name)), None)
    overlaps = _overlaps(job, rows)

    def option(name: str) -> str | None:
        return None if moved is None else options.get(name, defaults.get(name))

    return Record(
        run=run,
        job=job.name,
        identity=job.identity,
        group=entry.group,
        kind=job.options.name,
        method=job.options.method_name(job, rows),
        what=title,
        arch=metrics["arch"],
        level=_level(job, rows, metrics),
        source=None if moved is None else moved["source_arch"],
        source_level=None if moved is None else moved["level"],
        order=option("transfer.order"),
        squeeze=option("transfer.squeeze"),
        units=option("transfer.units"),
        plan=None if moved is None else moved["plan"],
        options=options,
        defaults=defaults,
        seed=setting.seed,
        data_seed=setting.data_seed,
        data_order=int(options.get("order", 0)),
        dataset=setting.data.name,
        classes=_classes(entry.folder),
        density=metrics["density"],
        layer_densities=metrics.get("layer_densities", {}),
        train_flops=metrics["train_flops"],
        history_flops=history,
        forward_flops=metrics["forward_flops"],
        dense_train_flops=metrics["dense_train_flops"],
        dense_forward_flops=metrics["dense_forward_flops"],
        start_step=metrics["start_step"],
        end_step=metrics["end_step"],
        bn=setting.train.bn,
        top1=metrics["top1"],
        top5=metrics["top5"],
        val_loss=metrics["val_loss"],
        reestimated_top1=metrics.get("reestimated_top1"),
        reestimated_top5=metrics.get("reestimated_top5"),
        reestimated_val_loss=metrics.get("reestimated_val_loss"),
        reestimated_batches=setting.train.bn_batches if "reestimated_top1" in metrics else None,
        diverged=metrics.get("diverged", False),
        overlap=overlaps.pop("total", None),
        layer_overlaps=overlaps,
        folder=entry.folder.path,
    )


def _ticket_jobs(job: Job, rows: Rows) -> Iterator[str]:
    """The jobs that made the ticket that `job` trains, the last one first."""
    while "ticket" in job.inputs:
        job = rows.jobs[job.inputs["ticket"]]
        yield job.name


def _level(job: Job, rows: Rows, own: Mapping[str, Any]) -> int | None:
    """The IMP level of a job's ticket, or of the ticket that it is compared with; None: of neither.

    `own`: metrics of the job's result, where it has one.
    """
    if job.options.imp_level is not None:
        return job.options.imp_level
    tickets = list(_ticket_jobs(job, rows))
    for near in (job, *map(rows.jobs.__getitem__, tickets)):
        looked_at = [other for role, other in near.inputs.items() if role in near.options.looked_at]
        if looked_at:
            return rows.metrics(looked_at[0]).get("level")
    level: int | None = (rows.metrics(tickets[0]) if tickets else own).get("level")
    return level or None  # the masks of theta_r and of a dynamic training have level 0


def described(job: Job, jobs: Mapping[str, Job], run: RunDirectory) -> dict[str, Any]:
    """Describe a training that has not begun, for TensorBoard's table of all trainings.

    Args:
        job: whose inputs are finished.
        jobs: it and all jobs that it needs, by name.
        run: where they are.
    """
    rows = Rows(Done(other, "", run.job(name), run.metrics) for name, other in jobs.items())
    setting = job.options.network_setting
    assert setting is not None, f"{job.name} trains a network without a setting"
    sources = (rows.metrics(name).get("source_arch") for name in _ticket_jobs(job, rows))
    about = {
        "arch": setting.model.arch,
        "method": job.options.method_name(job, rows),
        "source": next(filter(None, sources), None),
        "level": _level(job, rows, {}),
        "seed": setting.seed,
    }
    return {name: value for name, value in about.items() if value is not None}


def _classes(folder: JobFolder) -> int | None:
    """Outputs of the trained network; None: unknown, because its weights are of an older version or not there."""
    about = load_about(folder.trained) if folder.trained.is_file() else None
    return None if about is None else about.num_classes


def _overlaps(job: Job, rows: Rows) -> dict[str, float]:
    """The overlaps of a level's masks with those of the level before, `total` and by layer."""
    mark = "overlap/"
    if job.options.imp_level is not None:
        for row in reversed(rows.logged(job.name)):
            if f"{mark}total" in row:
                return {name.removeprefix(mark): value for name, value in row.items() if name.startswith(mark)}
    return {}


def _line(rows: Rows, name: str, run: str, records: Mapping[str, Record]) -> Line:
    metrics, inputs = rows.metrics(name), rows.jobs[name].inputs
    curves = {way: curve for way, curve in metrics["line"].items() if way != "alphas"}
    return Line(
        run,
        name,
        (inputs["one"], inputs["other"]),
        records.get(inputs["one"]),
        records.get(inputs["other"]),
        metrics["line"]["alphas"],
        {way: curve["error"] for way, curve in curves.items()},
        {way: curve["loss"] for way, curve in curves.items()},
        metrics["barriers"],
    )


def _distances(rows: Rows, name: str, run: str, records: Mapping[str, Record]) -> Distances:
    found, inputs = rows.metrics(name)["distance"], rows.jobs[name].inputs
    names = tuple(inputs[f"network_{number}"] for number in range(len(inputs)))
    networks = tuple(map(records.get, names))
    return Distances(run, name, names, networks, tuple(found["labels"]), found["total"], found["layers"])


def flat(tree: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted names and values, as text, of nested options."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for index, value in enumerate(tree):
            yield from flat(value, f"{name}.{index}")
    else:
        yield name, _text(tree)


def _text(value: Any) -> str:
    if isinstance(value, list):
        nested = any(isinstance(item, list) for item in value)
        return ("|" if nested else ",").join(map(_text, value))
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def done_in(jobs: Sequence[Job], groups: Mapping[str, str], run: RunDirectory) -> list[Done]:
    """The finished ones of a run's jobs."""
    return [
        Done(job, groups[job.name], run.job(job.name), run.metrics) for job in jobs if run.job(job.name).result.exists()
    ]


def write_report(jobs: Sequence[Job], groups: Mapping[str, str], run: RunDirectory, *, title: str) -> None:
    """Print the closing table, write it with its figure and records, and print the paths of all results. Rank 0."""
    results = read_results(done_in(jobs, groups, run), run=title)
    print_summary(results.records, title=title)
    write_summary(results, run.report, title=title)
    print(
        f"\nReport       {run.report}, .png, .csv and .json\n"
        f"Pages        python -m elth_dist.reporting {run.root} -o report/\n"
        f"Tickets      {run.root}/*/ticket.safetensors   (python -m elth_dist.tickets show FILE)\n"
        f"Metrics      {run.metrics}\n"
        f"TensorBoard  tensorboard --logdir {run.root / 'tensorboard'}",
        flush=True,
    )
