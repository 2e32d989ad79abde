"""What the jobs of a sweep are called for people: no two different ones are called the same."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elth_dist.options import Options
from elth_dist.sweeps.plan import Sweep, SweepJob
from elth_dist.sweeps.predict import describe

#: Shown by `seeds_of`.
_SEEDS = ("seed", "data_seed")
#: The number that a graph adds to a name which another job has.
_NUMBER = re.compile(r"-\d+(?=$| \()")

#: Options that follow from a job's place in its graph: told only if no other options tell jobs apart.
_LAST = ("level", "data_order")

#: Values of options by name; of each option those of the job, then those of the jobs that it needs.
_Options = dict[str, tuple[str, ...]]


def titles(sweep: Sweep) -> dict[str, str]:
    """Describe every job, by name: jobs that would be described alike get options that tell them apart.

    These can be options of jobs that they need: a level says the rewind step if the sweep has several. Jobs that
    differ in seeds alone have one title.
    """
    plain = {describe(job) for job in sweep.jobs.values()}
    alike: dict[str, dict[str, SweepJob]] = {}
    for job in sweep.jobs.values():
        title = describe(job)
        unnumbered = _NUMBER.sub("", title)
        alike.setdefault(unnumbered if unnumbered in plain else title, {}).setdefault(job.group, job)
    own = {name: _flat(_written_out(job.job.options)) for name, job in sweep.jobs.items()}
    title_of: dict[str, str] = {}
    for title, members in alike.items():
        if len(members) == 1:
            title_of |= dict.fromkeys(members, title)
        else:
            apart = _differences([_with_history(sweep, job, own) for job in members.values()])
            for told, (group, job) in zip(apart, members.items(), strict=True):
                what = told if apart.count(told) == 1 else [*told, job.name]  # the same options in another graph
                title_of[group] = f"{title} [{', '.join(what)}]"
    return {name: title_of[job.group] for name, job in sweep.jobs.items()}


def _with_history(sweep: Sweep, job: SweepJob, own: Mapping[str, Mapping[str, str]]) -> _Options:
    """Collect the options of a job and of all jobs that it needs, the nearest first."""
    found: _Options = {}
    waiting = [job.name]
    for name in waiting:  # grows
        for option, value in own[name].items():
            known = found.get(option, ())
            found[option] = known if value in known else (*known, value)
        waiting += [other for other in sweep.jobs[name].inputs if other not in waiting]
    return found


def _differences(members: Sequence[_Options]) -> list[list[str]]:
    """List options that tell the members apart, with each one's value and as few of the values before as suffice.

    An option that tells no more of them apart than those before it is left out.
    """
    apart: list[list[str]] = [[] for _ in members]
    seen: list[tuple[str, ...]] = [() for _ in members]
    names = dict.fromkeys(name for member in members for name in member)
    for name in sorted(names, key=_LAST.__contains__):
        values = [member.get(name, ()) for member in members]
        depths = range(1, 1 + max(map(len, values)))
        depth = next(depth for depth in depths if len({v[:depth] for v in values}) == len(set(values)))
        told = [" <- ".join(value[:depth]) for value in values]
        both = [(*before, value) for before, value in zip(seen, told, strict=True)]
        if len(set(both)) > len(set(seen)):
            seen = both
            for each, value in zip(apart, told, strict=True):
                each += [f"{name} {value}"] if value else []
    return apart


def _written_out(options: Options) -> dict[str, Any]:
    """Return all options that can affect a result; those of the setting without its name."""
    written = options.resolved()
    return {**written.pop("setting", {}), **written}


def _flat(options: Mapping[str, Any]) -> dict[str, str]:
    """Return nested options as text, by their dotted names, without seeds."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in _pairs(options, "")}


def _pairs(options: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{name}.")
        elif name not in _SEEDS:
            yield f"{prefix}{name}", value
