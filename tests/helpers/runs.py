"""Whole runs of `python -m elth_dist.train`, tiny, and how two of them compare."""

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.helpers.ranks import REPOSITORY, RankResult, RunningRanks, run_ranks, start_ranks

#: A training of 24 steps in two epochs, on digits of 8 pixels; the method is up to the test.
BASE = [
    "--config",
    str(REPOSITORY / "configs/quickstart_fast.yaml"),
    "--model.arch=resnet14_cifar",
    "--data.image_size=8",
    "--train.epochs=2",
    "--train.global_batch=120",
    "--train.milestones=[1ep]",
    "--train.log_every=1",
    "--train.checkpoint_every=5it",
    "--train.bn=running",
]
#: Iterative magnitude pruning with one pruning.
IMP = [*BASE, "--method.levels=1", "--method.rewind=2it", "--method.transfers=[]", "--method.controls=[]"]
#: With a transfer and a control: every kind of job, in seconds.
FULL = [
    *BASE,
    "--method.levels=1",
    "--method.rewind=2it",
    '--method.transfers=[{"to": "resnet8_cifar"}]',
    "--method.controls=[random]",
]


def arguments(folder: Path, *more: str, base: Sequence[str] = FULL) -> list[str]:
    """What comes behind `python -m elth_dist.train` for a run that writes to `folder`."""
    return [*base, "--run.dir", str(folder), *more]


def command(folder: Path, *more: str, base: Sequence[str] = FULL) -> list[str]:
    """The whole command line of one rank (RANK etc. come from the environment)."""
    return [sys.executable, "-m", "elth_dist.train", *arguments(folder, *more, base=base)]


def train(*line: str) -> None:
    """`python -m elth_dist.train LINE`, for processes forked from one that has torch already: seconds less a rank."""
    from elth_dist.train import main

    sys.exit(main(line))


def run(folder: Path, world_size: int, *more: str, base: Sequence[str] = FULL, check: bool = True) -> list[RankResult]:
    """A whole run on so many ranks; see run_ranks."""
    line = arguments(folder, *more, base=base)
    return run_ranks(train, world_size, args=line, join=False, check=check)


def start(
    folder: Path, world_size: int, *more: str, base: Sequence[str] = FULL
) -> AbstractContextManager[RunningRanks]:
    """The same, to meddle with; see start_ranks."""
    return start_ranks(train, world_size, args=arguments(folder, *more, base=base), join=False)


def jobs(folder: Path) -> list[str]:
    """Names of the finished jobs of a run."""
    return sorted(path.parent.name for path in folder.glob("*/result.json"))


def science(folder: Path) -> dict[str, Any]:
    """Everything in a run directory that two equal runs must have in common, to the bit."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.glob("*/result.json")):
        result = json.loads(path.read_text())
        result["metrics"].pop("seconds")
        found[str(path.relative_to(folder))] = result
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [
        {name: value for name, value in row.items() if not name.startswith(("time/", "memory/"))} for row in rows
    ]
    return found


def assert_same_science(one: Path, other: Path) -> None:
    """AssertionError naming the first thing in which two runs differ."""
    ours, theirs = science(one), science(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name == "metrics.jsonl":
            for row, expected in zip(value, theirs[name], strict=True):
                assert row == expected
        assert value == theirs[name], f"{name} differs"
