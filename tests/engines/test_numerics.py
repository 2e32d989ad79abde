"""How a process computes, while a job runs and afterwards."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from elth_dist.engines.numerics import Numerics
from elth_dist.train import main
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import BASE

backends: Any = torch.backends  # torch's stubs lack some


def settings() -> dict[str, Any]:
    """All that torch says of it; "raises" where its names contradict each other."""
    asked: dict[str, Callable[[], Any]] = {
        "deterministic": torch.are_deterministic_algorithms_enabled,
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled,
        "benchmark": lambda: backends.cudnn.benchmark,
        "conv": lambda: backends.cudnn.conv.fp32_precision,
        "rnn": lambda: backends.cudnn.rnn.fp32_precision,
        "matmul": lambda: backends.cuda.matmul.fp32_precision,
        "mkldnn matmul": lambda: backends.mkldnn.matmul.fp32_precision,
        "cudnn.allow_tf32": lambda: backends.cudnn.allow_tf32,
        "matmul.allow_tf32": lambda: backends.cuda.matmul.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision,
    }
    said = {}
    for name, ask in asked.items():
        try:
            said[name] = ask()
        except RuntimeError:
            said[name] = "raises"
    return said


def with_default_products() -> None:
    pass


def with_deterministic_algorithms_that_warn() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    backends.cudnn.benchmark = True


def with_all_products_in_tf32() -> None:
    torch.set_float32_matmul_precision("high")
    backends.cudnn.allow_tf32 = True


def with_products_in_bf16() -> None:
    torch.set_float32_matmul_precision("medium")


def with_no_tf32() -> None:
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False


def with_precisions_that_contradict_the_flags() -> None:
    backends.cudnn.conv.fp32_precision = "ieee"
    backends.cuda.matmul.fp32_precision = "tf32"


CALLERS = [
    with_default_products,
    with_deterministic_algorithms_that_warn,
    with_all_products_in_tf32,
    with_products_in_bf16,
    with_no_tf32,
    with_precisions_that_contradict_the_flags,
]


def before_within_and_after(index: int) -> list[dict[str, Any]]:
    CALLERS[index]()
    said = [settings()]
    for precision, deterministic in (("fp32", True), ("tf32", False), ("bf16", False)):
        with contextlib.suppress(ZeroDivisionError), Numerics(precision, deterministic=deterministic).applied():
            said.append(settings())
            raise ZeroDivisionError
        said.append(settings())
    return said


@pytest.mark.parametrize("index", range(len(CALLERS)), ids=[caller.__name__ for caller in CALLERS])
def test_all_settings_are_back_after_the_block(index: int) -> None:
    """Also after an error. In a process of its own: what a caller does cannot always be undone."""
    [result] = run_ranks(before_within_and_after, 1, args=[index], join=False)
    before, fp32, one, tf32, two, bf16, three = result.value
    assert one == two == three == before
    assert fp32["mkldnn matmul"] == tf32["mkldnn matmul"] == before["mkldnn matmul"]
    within = ("deterministic", "benchmark", "conv", "rnn", "matmul", "cudnn.allow_tf32", "matmul.allow_tf32")
    assert [fp32[name] for name in within] == [True, False, "ieee", "ieee", "ieee", False, False]
    assert [tf32[name] for name in within] == [False, True, "tf32", "tf32", "tf32", True, True]
    assert [bf16[name] for name in within] == [False, True, "ieee", "ieee", "ieee", False, False]


@contextlib.contextmanager
def _benchmark(enabled: bool) -> Iterator[None]:
    before = backends.cudnn.benchmark
    backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        backends.cudnn.benchmark = before


@pytest.mark.parametrize(
    "more",
    [
        ["--method.name=dense"],
        ["--method.name=snip", "--method.density=0.2", "--method.rewind=2it", "--train.deterministic=true"],
    ],
    ids=["training", "pruning"],
)
def test_run_leaves_the_process_as_it_was(more: list[str], tmp_path: Path) -> None:
    before = settings()
    line = [*BASE, "--data.loader=resident", "--train.epochs=1", "--train.milestones=[]", *more]
    with _benchmark(enabled=not backends.cudnn.benchmark):
        expected = {**before, "benchmark": not before["benchmark"]}
        assert main([*line, "--run.dir", str(tmp_path / "run")]) == 0
        assert settings() == expected
    assert backends.cudnn.allow_tf32 is True
    exported = torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))
    assert exported.module()(torch.ones(1, 3)).shape == (1, 2)
