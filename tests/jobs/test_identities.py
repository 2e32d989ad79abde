"""Identities stay: the hash of every job of every shipped configuration, as version 0.1.0 (3ae3e6e) computed it.

A run directory or sweep folder of an earlier version continues only as long as these are equal.

Regenerated since, because results changed (`changed` in identities.json holds the hashes of 0.1.0):

- RigL, SET and SNFS: updates come before t_end, no longer at it. (Those of configs/imagenet and of
  configs/sweeps/imagenet_*.yaml also have `delta_t: 400` now, for batch 1024.)
- Any mask update that matches a ticket: it keeps exactly as many weights.

Planned otherwise since: the quickstart has its other methods at level 3; two transfers with equal plans are one job;
most sweeps are later ones.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from elth_dist.config import Config, merge, read_config, read_yaml
from elth_dist.jobs.graph import Graph, Job
from elth_dist.jobs.kinds.dynamic import DynamicJob
from elth_dist.sparsity.updates.drop_and_grow import DropAndGrow
from elth_dist.sweeps.plan import plan_sweep
from tests.helpers.ranks import REPOSITORY

CONFIGS = REPOSITORY / "configs"
GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("identities.json").read_text())

CONTROLS: list[Any] = [
    "dense",
    "random",
    "reinit",
    "random_reinit",
    "magnitude",
    {"name": "snip", "batches": 3},
    {"name": "snip", "variant": "elth_code"},
    "grasp",
    {"name": "grasp", "temperature": 1.0},
    {"name": "synflow", "steps": 7},
    "synflow",
    "rigl",
    {"name": "rigl", "multiplier": 5, "distribution": "erk"},
    "set",
    {"name": "snfs", "momentum": 0.8},
    {"name": "gradual", "begin": "1ep", "end": "3ep", "every": 5},
    {"name": "dpf", "distribution": "uniform"},
    {"name": "magnitude", "matched": "layerwise"},
]
METHODS = ("magnitude", "snip", "grasp", "synflow", "random", "rigl", "set", "snfs", "gradual", "dpf")
#: Overrides of configs/quickstart_fast.yaml; the content hash of the ticket file "T" is "0123abcd".
CASES: dict[str, dict[str, Any]] = {
    "every control": {"method": {"name": "imp", "levels": 2, "controls": CONTROLS}},
    "controls of a transfer": {
        "method": {
            "name": "imp",
            "levels": 2,
            "data_order": "same",
            "transfers": [
                {
                    "to": "resnet20_cifar",
                    "order": "append",
                    "level": 1,
                    "controls": [*CONTROLS, "shuffled_copies", {"name": "snip_copies", "batches": 2}],
                },
                {"to": "resnet20_cifar", "units": [1]},
                {"to": "resnet8_cifar", "squeeze": "last"},
                {"to": "resnet20_cifar", "plan": "0:0;1:1,2"},
            ],
        }
    },
    "ticket": {"method": {"name": "ticket", "path": "T"}},
    "ticket reinit": {"method": {"name": "ticket", "path": "T", "control": "reinit"}},
    "ticket moved": {
        "method": {"name": "ticket", "path": "T", "transfer": {"to": "resnet14_cifar"}, "control": "shuffled_copies"}
    },
    "ticket moved snip": {
        "method": {"name": "ticket", "path": "T", "transfer": {"to": "resnet14_cifar"}, "control": "snip_copies"}
    },
    "ticket snip": {"method": {"name": "ticket", "path": "T", "control": "snip_copies"}},
    "dense": {"method": {"name": "dense"}},
    "reinit": {"method": {"name": "reinit", "like": "T"}},
    **{f"{name} at": {"method": {"name": name, "density": 0.1}} for name in METHODS},
    **{f"{name} like": {"method": {"name": name, "like": "T"}} for name in METHODS},
    "seeds": {
        "seed": 3,
        "data_seed": 5,
        "method": {
            "name": "imp",
            "levels": 1,
            "rewind": 0,
            "controls": ["snip"],
            "transfers": [{"to": "resnet20_cifar"}],
        },
    },
    "train": {
        "train": {
            "epochs": 3,
            "lr_batch": 32,
            "schedule": "cosine",
            "nesterov": True,
            "weight_decay": 0.001,
            "decay": "weights",
            "precision": "bf16",
            "label_smoothing": 0.1,
            "accumulate": 2,
            "sync_bn": True,
            "deterministic": True,
            "eval_every": 2,
        },
        "method": {"name": "dense"},
    },
    "folder": {"data": {"name": "folder", "root": "/nowhere", "image_size": 64}, "method": {"name": "dense"}},
    "imagenet": {
        "data": {"name": "imagenet", "scale": [0.1, 1.0]},
        "model": {"arch": "resnet50", "init": "torchvision"},
        "method": {"name": "dense"},
    },
    "cifar10": {
        "data": {"name": "cifar10", "root": "/nowhere"},
        "model": {"arch": "vgg16"},
        "method": {"name": "dense"},
    },
    "synthetic": {"data": {"name": "synthetic", "num_train": 100, "image_size": 32}, "method": {"name": "dense"}},
    "zero": {"engine": {"name": "deepspeed", "zero_stage": 3}, "method": {"name": "dense"}},
}


def jobs(config: Config) -> list[Job]:
    graph = Graph({"T": "0123abcd"})
    config.method.plan(graph, config.setting)
    return graph.jobs


def identities(config: Config) -> dict[str, str]:
    return {job.name: job.identity for job in jobs(config)}


def shipped(name: str) -> Config:
    return read_config(["--config", str(CONFIGS / name)]).config


def case(name: str) -> Config:
    base, over = read_yaml(CONFIGS / "quickstart_fast.yaml"), CASES[name]
    whole = {section: over[section] for section in ("method", "data", "model") if section in over}
    rest = {section: value for section, value in over.items() if section not in whole}
    return Config(**merge({**base, **whole}, rest))


@pytest.mark.parametrize("name", GOLDEN["runs"])
def test_shipped_runs(name: str) -> None:
    assert identities(shipped(name)) == GOLDEN["runs"][name]


@pytest.mark.parametrize("name", GOLDEN["sweeps"])
def test_shipped_sweeps(name: str) -> None:
    """Names, identities, labels, groups and inputs of every job."""
    sweep = plan_sweep(CONFIGS / name)
    jobs = [
        [name, job.job.identity, job.label, job.group, sorted(job.job.inputs.items())]
        for name, job in sweep.jobs.items()
    ]
    digest = hashlib.sha256(json.dumps(jobs).encode()).hexdigest()
    assert {"jobs": len(jobs), "sha256": digest} == GOLDEN["sweeps"][name]


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_options_beyond_the_shipped_ones(name: str) -> None:
    assert identities(case(name)) == GOLDEN["cases"][name]


def results_changed(job: Job) -> bool:
    """Whether the job's result is not 0.1.0's: see above."""
    options = job.options
    return isinstance(options, DynamicJob) and (isinstance(options.update, DropAndGrow) or options.density is None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("runs", "cases") for name in GOLDEN[kind] if name != "quickstart.yaml"],
    ids="-".join,
)
def test_only_jobs_with_other_results_have_other_identities_than_in_0_1_0(kind: str, name: str) -> None:
    before = {**GOLDEN[kind][name], **GOLDEN["changed"][kind].get(name, {})}
    for job in jobs(shipped(name) if kind == "runs" else case(name)):
        assert (job.identity != before[job.name]) == results_changed(job), job.name
